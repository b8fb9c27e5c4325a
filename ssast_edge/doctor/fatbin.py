"""GPU architectures in a shared library, read from the file: no cuobjdump, no GPU.

nvcc puts device code into the ELF section .nv_fatbin: containers, each with a header and entries
for one architecture. NVIDIA documents none of it; the offsets are those that nvcc 12 and 13
write, and tests compare them with the architectures that a library was compiled for.
"""

import mmap
import struct
from dataclasses import dataclass
from pathlib import Path

_SECTION = b".nv_fatbin"
_CONTAINER_MAGIC = 0xBA55ED50
_CONTAINER = struct.Struct("<IHHQ")  # magic, version, size of the header, size of the entries
_ENTRY = struct.Struct("<HHIQ")  # kind, version, size of the header, size of the code
_ARCHITECTURE_OFFSET = 28  # in an entry: 87 for sm_87
_KINDS = {1: "ptx", 2: "cubin"}


@dataclass(frozen=True, order=True)
class DeviceCode:
    """Code for one architecture."""

    architecture: int  # 87 for compute capability 8.7
    kind: str  # "cubin": this architecture and later minor ones; "ptx": this and every later one

    def __str__(self) -> str:
        """As nvcc names it."""
        return f"{'compute' if self.kind == 'ptx' else 'sm'}_{self.architecture}"

    def runs_on(self, capability: int) -> bool:
        """Whether a GPU of that compute capability (87 for 8.7) can run it."""
        if self.kind == "ptx":
            return capability >= self.architecture
        return capability // 10 == self.architecture // 10 and capability >= self.architecture


def device_code(library: Path) -> list[DeviceCode]:
    """The device code in a library, sorted, each once; none when it holds none.

    Raises ValueError for a file that is no 64-bit ELF, or whose device code is in a form that is
    not known here, OSError when it cannot be read.
    """
    with (
        library.open("rb") as file,
        mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as content,
    ):
        try:
            found = set()
            start, end = _section(content, _SECTION)
            while start + _CONTAINER.size <= end:
                magic, _, header, size = _CONTAINER.unpack_from(content, start)
                if magic != _CONTAINER_MAGIC:
                    start += 8  # between containers there is padding
                    continue
                found |= _entries(content, start + header, min(end, start + header + size))
                start += max(_CONTAINER.size, header + size)
        except (struct.error, OverflowError) as error:
            raise ValueError(f"{library} is cut off") from error
        if end and not found:
            raise ValueError(f"{library}: its device code is in a form that is not known here")
        return sorted(found)


def _entries(content: mmap.mmap, start: int, end: int) -> set[DeviceCode]:
    found = set()
    while start + _ARCHITECTURE_OFFSET + 4 <= end:
        kind, _, header, size = _ENTRY.unpack_from(content, start)
        (architecture,) = struct.unpack_from("<I", content, start + _ARCHITECTURE_OFFSET)
        if kind in _KINDS and 30 <= architecture < 1000:
            found.add(DeviceCode(architecture, _KINDS[kind]))
        if header + size == 0:
            break
        start += header + size
    return found


def _section(content: mmap.mmap, wanted: bytes) -> tuple[int, int]:
    """First and last byte of a section, (0, 0) when there is none."""
    if content[:6] != b"\x7fELF\x02\x01":
        raise ValueError("not a 64-bit little-endian ELF file")
    (table,) = struct.unpack_from("<Q", content, 0x28)
    size, count, names = struct.unpack_from("<HHH", content, 0x3A)

    def section(index: int) -> tuple[int, int, int]:
        at = table + index * size
        (name,) = struct.unpack_from("<I", content, at)
        offset, length = struct.unpack_from("<QQ", content, at + 0x18)
        return name, offset, length

    if count == 0:
        return 0, 0
    _, strings, _ = section(names)
    for index in range(count):
        name, offset, length = section(index)
        if content[strings + name : strings + name + len(wanted) + 1] == wanted + b"\0":
            return offset, offset + length
    return 0, 0
