"""The coding loop, the container and the video codec."""
