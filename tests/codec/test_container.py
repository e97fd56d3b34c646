import io
import zlib
from dataclasses import replace
from fractions import Fraction

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from lvc_zoo.codec.container import (
    CHROMA,
    DEVICES,
    MATRICES,
    MAX_PAYLOAD,
    Header,
    Packet,
    StreamReader,
    StreamWriter,
    coded_frames,
    varint,
)
from lvc_zoo.errors import BitstreamError
from lvc_zoo.gop import FrameType, LowDelay, RandomAccess

HEADER = Header(
    model="biecvc-tiny",
    origin="",
    weights_digest=bytes(range(8)),
    table_digest=bytes(range(8, 16)),
    device="cpu",
    width=33,
    height=17,
    frame_rate=Fraction(30000, 1001),
    matrix="bt601",
    full_range=False,
    bit_depth=8,
    chroma="420",
    color_assumed=True,
    structure=RandomAccess(4),
)
STRUCTURES = [RandomAccess(4), RandomAccess(1), LowDelay(3), LowDelay(1), LowDelay(None)]


HEADER_BODY = HEADER.to_bytes()[5:-4]


def header_of(body):
    """A header with any body and the checksum that fits."""
    head = b"\x89LVC" + varint(len(body)) + body
    return head + zlib.crc32(head).to_bytes(4, "little")


def payload_of(plan, salt=b""):
    """Some bytes, none of them like another frame's; `salt` makes another video, or gives one a frame."""
    salt = salt(plan.poc) if callable(salt) else salt
    return zlib.crc32(salt + bytes([plan.poc])).to_bytes(4, "little") * (1 + plan.poc % 3)


def write(structure, num_frames, salt=b"", header=HEADER):
    """A stream of `num_frames` frames as the codec writes it, and its plans and packets."""
    file = io.BytesIO()
    writer, coded, first = StreamWriter(file, replace(header, structure=structure)), [], 0
    while first < num_frames:
        plans = structure.gop(first, num_frames - first, final=True)
        if plans[0].frame_type is not FrameType.P:
            writer.begin_unit(len(plans) if structure.reorder else 0, final=first + len(plans) == num_frames)
        for plan in plans:
            packet = Packet(plan.frame_type, 21, payload_of(plan, salt), 1000 + plan.poc)
            writer.write(packet, plan.poc)
            coded.append((plan, packet))
        first += len(plans)
    writer.close()
    assert writer.size_bytes == len(file.getvalue())
    return file.getvalue(), coded


def read(data):
    """Header and frames of a stream; frames that came before damage are in the error's `before`."""
    coded = []
    try:
        reader = StreamReader(io.BytesIO(data))
        for plan, packet in coded_frames(reader):
            coded.append((plan.poc, packet))
    except BitstreamError as error:
        error.before = coded
        raise
    return reader.header, coded


def without_plans(coded):
    return [(plan.poc, packet) for plan, packet in coded]


texts = st.text(max_size=40)


@settings(derandomize=True, deadline=None, max_examples=150)
@given(
    st.builds(
        Header,
        model=texts,
        origin=texts,
        weights_digest=st.binary(min_size=8, max_size=8),
        table_digest=st.binary(min_size=8, max_size=8),
        device=st.sampled_from(DEVICES),
        width=st.integers(1, 65535),
        height=st.integers(1, 65535),
        frame_rate=st.fractions(Fraction(1, 1000), 1000, max_denominator=100000),
        matrix=st.sampled_from(MATRICES),
        full_range=st.booleans(),
        bit_depth=st.sampled_from([8, 10]),
        chroma=st.sampled_from(CHROMA),
        color_assumed=st.booleans(),
        structure=st.one_of(
            st.sampled_from([RandomAccess(1 << i) for i in range(8)]),
            st.builds(LowDelay, st.one_of(st.none(), st.integers(1, 10**6))),
        ),
    ),
)
def test_header_round_trip_keeps_every_field(header):
    data = header.to_bytes()
    reader = StreamReader(io.BytesIO(data + b"rest"))
    assert (reader.header, reader.header_bytes) == (header, len(data))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"width": 0}, "width is 0, a stream holds 1 to 65535"),
        ({"height": 65536}, "height is 65536, a stream holds 1 to 65535"),
        ({"frame_rate": Fraction(0)}, "frame rate is 0, expected a positive number"),
        ({"weights_digest": b"short"}, "weights_digest has 5 bytes, expected 8"),
        ({"bit_depth": 12}, "bit_depth is 12, a stream holds 8 or 10"),
        ({"matrix": "bt2020"}, "matrix is 'bt2020', a stream holds bt601 or bt709"),
    ],
)
def test_header_with_a_field_that_does_not_fit_raises(change, message):
    with pytest.raises(ValueError, match=message):
        replace(HEADER, **change)


@pytest.mark.parametrize("num_frames", [1, 2, 5, 9, 11])
@pytest.mark.parametrize("structure", STRUCTURES, ids=str)
def test_stream_gives_back_plans_and_packets(structure, num_frames):
    data, coded = write(structure, num_frames)
    header, decoded = read(data)
    assert header == replace(HEADER, structure=structure)
    assert decoded == without_plans(coded)


@pytest.mark.parametrize("structure", STRUCTURES, ids=str)
def test_plans_of_reader_are_those_of_writer(structure):
    data, coded = write(structure, 11)
    plans = [plan for plan, _ in coded_frames(StreamReader(io.BytesIO(data)))]
    # a reader of low delay does not know the last frame, so it may keep it in the DPB
    assert [replace(p, release=()) for p in plans] == [replace(p, release=()) for p, _ in coded]
    if structure.reorder:
        assert plans == [plan for plan, _ in coded]


@pytest.mark.parametrize("structure", STRUCTURES, ids=str)
def test_index_names_units_and_their_opening_frames(structure):
    data, coded = write(structure, 10)
    reader = StreamReader(io.BytesIO(data))
    entries = reader.index()
    assert [entry.first for entry in entries] == [sum(e.frames for e in entries[:i]) for i in range(len(entries))]
    assert sum(entry.frames for entry in entries) == 10
    by_poc = {plan.poc: packet for plan, packet in coded}
    for entry in entries:
        reader.seek(entry)
        plan, packet = next(coded_frames(reader, entry.first))
        assert entry.first <= plan.poc < entry.first + entry.frames
        assert packet == by_poc[plan.poc]
        opening = entries[entry.opening]
        reader.seek(opening)
        plan, packet = next(coded_frames(reader, opening.first))
        assert (plan.poc, packet) == (entry.opening_poc, by_poc[entry.opening_poc])
        assert packet.frame_type is FrameType.I


def test_index_keeps_the_reading_position():
    data, coded = write(RandomAccess(4), 9)
    reader = StreamReader(io.BytesIO(data))
    frames = coded_frames(reader)
    next(frames)
    reader.index()
    assert [packet for _, packet in frames] == [packet for _, packet in coded[1:]]


@pytest.mark.parametrize(
    ("size", "framing"), [(0, 6), (508, 6), (512, 7), (65532, 7), (65536, 8), (MAX_PAYLOAD - 4, 8)]
)
def test_packet_framing_is_at_most_eight_bytes_and_told_exactly(size, framing):
    def stream(payload):
        file = io.BytesIO()
        writer = StreamWriter(file, replace(HEADER, structure=LowDelay(None)))
        writer.begin_unit(0)
        before = 0
        for poc, kind in enumerate((FrameType.I, FrameType.P)):
            before = writer.size_bytes
            writer.write(Packet(kind, 63, payload if poc else b"", 65535), poc)
        written = writer.size_bytes - before
        writer.close()
        return file.getvalue(), written

    packet = Packet(FrameType.P, 63, bytes(size), 65535)
    data, written = stream(packet.payload)
    assert packet.framing == framing <= 8
    assert written == size + framing
    assert read(data)[1][1] == (1, packet)


@pytest.mark.parametrize("size", [MAX_PAYLOAD, 3])
def test_packet_that_does_not_fit_raises(size):
    writer = StreamWriter(io.BytesIO(), HEADER)
    writer.begin_unit(1)
    with pytest.raises(ValueError, match=f"frame 0 takes {size} bytes, a packet holds less than {MAX_PAYLOAD}"):
        writer.write(Packet(FrameType.I, 0, bytes(size), 0), 0)


def test_close_without_frames_raises():
    with pytest.raises(ValueError, match="a stream holds at least one frame"):
        StreamWriter(io.BytesIO(), HEADER).close()


@pytest.mark.parametrize("structure", [RandomAccess(4), LowDelay(3), LowDelay(None)], ids=str)
def test_any_flipped_byte_raises_after_the_frames_before_it(structure):
    data, coded = write(structure, 7)
    for position in range(len(data)):
        # each single bit, and what turns a byte into the mark of a trailer, a unit, or another frame type
        masks = {1 << bit for bit in range(8)} | {0xFF, 0xC0, data[position] ^ 0xFF, data[position] ^ 0xC0} - {0}
        for mask in masks:
            damaged = data[:position] + bytes([data[position] ^ mask]) + data[position + 1 :]
            with pytest.raises(BitstreamError) as caught:
                read(damaged)
            before = caught.value.before
            assert before == without_plans(coded)[: len(before)]


@pytest.mark.parametrize("structure", [RandomAccess(4), LowDelay(3), LowDelay(None)], ids=str)
def test_truncation_at_any_length_raises_after_the_frames_before_it(structure):
    data, coded = write(structure, 7)
    for length in range(len(data)):
        with pytest.raises(BitstreamError, match=r"empty|starts with|truncated|ends") as caught:
            read(data[:length])
        before = caught.value.before
        assert before == without_plans(coded)[: len(before)]
        # whatever was written in full is given
        complete = sum(packet.payload in data[:length] for _, packet in coded)
        assert len(before) == complete


@pytest.mark.parametrize("structure", [RandomAccess(4), LowDelay(3)], ids=str)
def test_index_of_truncated_or_damaged_stream_raises(structure):
    data, _ = write(structure, 7)
    size = int.from_bytes(data[-8:-4], "little")
    for position in range(len(data) - size, len(data)):
        damaged = data[:position] + bytes([data[position] ^ 0x10]) + data[position + 1 :]
        with pytest.raises(BitstreamError, match="trailer"):
            StreamReader(io.BytesIO(damaged)).index()
    header_bytes = StreamReader(io.BytesIO(data)).header_bytes
    for length in range(header_bytes, len(data)):
        with pytest.raises(BitstreamError, match="trailer"):
            StreamReader(io.BytesIO(data[:length])).index()


@pytest.mark.parametrize("structure", [RandomAccess(4), LowDelay(4), LowDelay(1)], ids=str)
def test_unit_of_another_stream_is_refused_naming_the_frame(structure):
    ours, coded = write(structure, 9)
    theirs, _ = write(structure, 9, salt=b"other")
    start, end = (StreamReader(io.BytesIO(ours)).index()[i].offset for i in (1, 2))
    first = StreamReader(io.BytesIO(ours)).index()[1].first
    spliced = ours[:start] + theirs[start:end] + ours[end:]
    assert len(theirs) == len(ours)
    with pytest.raises(
        BitstreamError, match=rf"frame {first} fails its CRC: damaged, or from another place or stream"
    ) as caught:
        read(spliced)
    assert caught.value.poc == first
    assert caught.value.before == without_plans(coded)[:first]


@pytest.mark.parametrize("structure", [RandomAccess(4), LowDelay(4), LowDelay(1)], ids=str)
def test_every_splice_of_streams_that_begin_alike_is_refused_where_it_stops_being_a_beginning(structure):
    """Streams that differ from their third unit on, so that headers and first frames tell nothing."""
    ours, _ = write(structure, 17)
    firsts = [e.first for e in StreamReader(io.BytesIO(ours)).index()] + [17]
    differs = 2
    theirs, _ = write(structure, 17, salt=lambda poc: b"other" if poc >= firsts[differs] else b"")
    offsets = [[e.offset for e in StreamReader(io.BytesIO(data)).index()] + [len(data)] for data in (ours, theirs)]
    for i in range(differs, len(firsts) - 1):
        spliced = ours[: offsets[0][i]] + theirs[offsets[1][i] : offsets[1][i + 1]] + ours[offsets[0][i + 1] :]
        with pytest.raises(BitstreamError) as caught:
            read(spliced)
        # the first of their units continues a beginning that both share, and the next of ours no longer does
        assert caught.value.poc == firsts[i + (i == differs)]
        tail = ours[: offsets[0][i]] + theirs[offsets[1][i] :]
        if i == differs:
            assert read(tail) == read(theirs)
        else:
            with pytest.raises(BitstreamError):
                read(tail)


@pytest.mark.parametrize("structure", [LowDelay(4), LowDelay(1)], ids=str)
def test_seek_to_a_spliced_unit_is_refused(structure):
    ours, _ = write(structure, 9)
    theirs, _ = write(structure, 9, salt=lambda poc: b"other" if poc else b"")
    index = StreamReader(io.BytesIO(ours)).index()
    start, end = index[-1].offset, len(ours) - int.from_bytes(ours[-8:-4], "little")
    reader = StreamReader(io.BytesIO(ours[:start] + theirs[start:end] + ours[end:]))
    reader.seek(reader.index()[-1])
    with pytest.raises(BitstreamError, match=f"frame {index[-1].first} fails its CRC"):
        next(coded_frames(reader, index[-1].first))


def test_trailer_of_another_stream_is_refused():
    ours, coded = write(LowDelay(4), 6)
    theirs, _ = write(LowDelay(4), 6, salt=b"other")
    end = len(ours) - int.from_bytes(ours[-8:-4], "little")
    with pytest.raises(BitstreamError, match="what follows frame 5 is neither a frame nor this stream's") as caught:
        read(ours[:end] + theirs[end:])
    assert caught.value.before == without_plans(coded)


def test_unit_at_another_place_is_refused_naming_the_frame():
    data, _ = write(RandomAccess(4), 13)
    offsets = [entry.offset for entry in StreamReader(io.BytesIO(data)).index()]
    a, b, c = offsets[1:4]
    with pytest.raises(BitstreamError, match="frame 1 fails its CRC"):
        read(data[:a] + data[b:c] + data[a:b] + data[c:])
    with pytest.raises(BitstreamError, match="frame 5 fails its CRC"):
        read(data[:b] + data[c:])


def test_packets_of_equal_frames_are_refused_in_another_order():
    """Each packet is bound to its place even where payloads and units repeat."""
    file = io.BytesIO()
    writer, ends = StreamWriter(file, replace(HEADER, structure=LowDelay(None))), []
    writer.begin_unit(0)
    for poc in range(4):
        writer.write(Packet(FrameType.P if poc else FrameType.I, 21, b"same" if poc else b"open", 7), poc)
        ends.append(file.tell())
    writer.close()
    data, (a, b, c, d) = file.getvalue(), ends
    with pytest.raises(BitstreamError, match="frame 1 fails its CRC"):
        read(data[:a] + data[b:c] + data[a:b] + data[c:])
    with pytest.raises(BitstreamError, match="frame 2 fails its CRC"):
        read(data[:b] + data[c:d] + data[c:])


def test_packet_is_handed_on_as_soon_as_it_is_written(tmp_path):
    """A reader beside the writer sees every packet, which stands in no buffer of ours."""
    with (tmp_path / "a.lvc").open("wb") as file:
        writer = StreamWriter(file, replace(HEADER, structure=LowDelay(3)))
        for poc in range(5):
            if poc % 3 == 0:
                writer.begin_unit(0)
            writer.write(Packet(FrameType.P if poc % 3 else FrameType.I, 21, b"four", 0), poc)
            with pytest.raises(BitstreamError, match=f"before frame {poc + 1}: truncated") as caught:
                read((tmp_path / "a.lvc").read_bytes())
            assert len(caught.value.before) == poc + 1


GOLDEN = bytes.fromhex(
    "894c56432b02002100110020b0ea01e90700020b6269656376632d74696e7900000102030405060708090a0b0c0d0e0f486c"
    "4c05c000df91150164c8e8038def02d2550274a8e9031bdf05a51bdf05a5c10053ad15038488ea03a18e0c3ca18e0c3ca18e"
    "0c3cff02021c009f3542cb011600979508f6180000005420ae64"
)


def test_stream_of_fixed_packets_is_golden():
    """Bytes of container version 2, stored when it was made."""
    assert write(LowDelay(2), 3)[0] == GOLDEN


@pytest.mark.parametrize(
    "data", [b"", b"RIFF....WEBP", b"\x89LVC", b"\x89LVC\x00" + bytes(8), b"\x89PNG\r\n\x1a\n" * 9]
)
def test_empty_and_foreign_files_raise(data):
    with pytest.raises(BitstreamError, match=r"not an .lvc stream|truncated|damaged"):
        StreamReader(io.BytesIO(data))


@pytest.mark.parametrize("version", [1, 3])
def test_stream_of_another_version_says_so(version):
    message = f"container version {version}, this library reads 2; use the lvc_zoo that wrote the file"
    with pytest.raises(BitstreamError, match=message):
        StreamReader(io.BytesIO(header_of(bytes([version]))))


@pytest.mark.parametrize(
    "body",
    [b"", b"\2", HEADER_BODY[:-1], b"\2\x63" + HEADER_BODY[2:], HEADER_BODY[:2] + bytes(4) + HEADER_BODY[6:]],
    ids=["empty", "version alone", "short", "unknown device", "no width and height"],
)
def test_header_with_sound_checksum_but_senseless_body_raises(body):
    with pytest.raises(BitstreamError, match="what no lvc_zoo writes"):
        StreamReader(io.BytesIO(header_of(body)))


def test_stream_with_other_packet_type_names_the_frame():
    """Sound bytes that no encoder of this structure writes."""
    file = io.BytesIO()
    writer = StreamWriter(file, HEADER)
    writer.begin_unit(1, final=True)
    writer.write(Packet(FrameType.B, 0, b"four", 0), 0)
    writer.close()
    with pytest.raises(BitstreamError, match="no I packet where frame 0 should be"):
        read(file.getvalue())


@settings(derandomize=True, deadline=None, max_examples=300)
@given(st.binary(max_size=60))
def test_garbage_after_a_header_raises(garbage):
    data, _ = write(RandomAccess(4), 1)
    header_bytes = StreamReader(io.BytesIO(data)).header_bytes
    with pytest.raises(BitstreamError):
        read(data[:header_bytes] + garbage)


@pytest.mark.parametrize(("value", "data"), [(0, b"\0"), (127, b"\x7f"), (128, b"\x80\1"), (300, b"\xac\2")])
def test_varint_is_low_bits_first(value, data):
    assert varint(value) == data
