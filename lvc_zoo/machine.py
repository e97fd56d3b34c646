"""What this machine is called, for records of what was measured or trained on it."""

import platform
from pathlib import Path


def processor_name() -> str:
    """Name of the CPU, as the system tells it."""
    info = Path("/proc/cpuinfo")
    lines = info.read_text().splitlines() if info.exists() else []
    names = [line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.processor() or platform.machine()
