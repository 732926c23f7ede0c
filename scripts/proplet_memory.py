#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""Where the firmware's memory goes, and whether it lies as docs/memory.md says.

Reads what the link left behind: the ELF file for symbols and section types, the map file for the
input sections and the files they came from. Without options it prints a table; --check prints what
is wrong, and its exit status is 1 then.

On native_sim, zephyr.elf is a relocatable file: its sections have no addresses and there are no
memory regions, so a place is a section and an offset in it.
"""

import argparse
import json
import re
import sys
from collections import defaultdict
from io import BytesIO
from pathlib import Path
from typing import Iterator, NamedTuple

from elftools.elf.constants import SH_FLAGS
from elftools.elf.elffile import ELFFile
from elftools.elf.relocation import RelocationSection
from elftools.elf.sections import SymbolTableSection

WORKER_STACKS = "proplet_worker_stacks"
# In zephyr/lib/libc/common/source/stdlib/malloc.c, which rounds its size up for the MPU.
ARENA = "malloc_arena"
ARENA_ROUNDING = 64
ALLOCATORS = frozenset(
    "malloc calloc realloc reallocarray aligned_alloc memalign posix_memalign".split()
)
MAY_ALLOCATE = frozenset({"proplet_arena"})

# Thread stacks have no type in the symbol table, but Zephyr's names for them are regular.
STACK_NAME = re.compile(r"(^|_)stacks?(_area)?(\.\d+)?$|^_k_thread_stack_", re.IGNORECASE)
# Plain arrays of vendors' sources, which nothing here can move.
VENDOR_STACKS = frozenset({"timer_task_stack"})
# Below it are tables about stacks, as the shell's; the smallest stack, an idle thread's, is larger.
STACK_MIN = 128
VARIABLES = re.compile(r"^\.?(s?bss|s?data|noinit|user_stacks|COMMON)\b")
NOINIT_INPUT = re.compile(r"^\.(noinit|user_stacks)(\.|$)")
# `noinit` on most boards, `.dram0.noinit` on Espressif's, the input section itself on native_sim.
NOINIT_OUTPUT = re.compile(r"(^|\.)noinit(\.|$)")
NET_POOL = re.compile(r"^_?net_(buf|pkt)_")
SLAB = re.compile(r"^_k_mem_slab_buf_")
HEAP = re.compile(r"^kheap_|_heap$")
HEAP_MIN = 128


class Error(Exception):
    """Something that keeps a question from being answered."""


class Region(NamedTuple):
    name: str
    origin: int
    length: int

    def holds(self, address: int) -> bool:
        return self.origin <= address < self.origin + self.length

    def overlaps(self, other: "Region") -> bool:
        return self.holds(other.origin) or other.holds(self.origin)


class Input(NamedTuple):
    """An input section that is part of the image."""

    output: str
    name: str
    address: int
    size: int
    file: str


class Map(NamedTuple):
    regions: list[Region]
    inputs: list[Input]


class Section(NamedTuple):
    name: str
    address: int
    size: int
    kind: str
    flags: int


class Segment(NamedTuple):
    virtual: int
    physical: int
    file_size: int


class Symbol(NamedTuple):
    name: str
    section: str
    value: int
    size: int


class Image(NamedTuple):
    relocatable: bool
    sections: list[Section]
    segments: list[Segment]
    symbols: list[Symbol]


class Piece(NamedTuple):
    """Bytes of one owner: a variable, or what is left of an input section."""

    category: str
    name: str
    size: int


HEX = r"0x[0-9a-f]+"
OUTPUT = re.compile(rf"^(\S.*?)\s+({HEX})\s+({HEX})(?:\s+load address {HEX})?$")
INPUT = re.compile(rf"^ (\S.*?)\s+({HEX})\s+({HEX}) (\S.*)$")
# What follows a name that is too long for its column.
REST = re.compile(rf"^\s+({HEX})\s+({HEX})(?:\s+load address {HEX}| (\S.*))?$")
REGION = re.compile(rf"^(\S+)\s+({HEX})\s+({HEX})(?:\s+\w+)?$")


def parse_map(text: str) -> Map:
    """Reads a map file of GNU ld."""
    _, found, text = text.partition("\nMemory Configuration\n")
    memory, also, layout = text.partition("\nLinker script and memory map\n")
    if not (found and also):
        raise Error("the map file is not one of GNU ld")
    layout = layout.partition("\nCross Reference Table\n")[0]
    regions = []
    for line in memory.splitlines():
        match = REGION.match(line)
        if match and match[1] != "*default*":
            regions.append(Region(match[1], int(match[2], 16), int(match[3], 16)))

    inputs = []
    output = pending = ""
    for line in layout.splitlines():
        before, pending = pending, ""
        if match := INPUT.match(line):
            # *fill* and the linker script's patterns.
            if not match[1].startswith("*"):
                address, size = int(match[2], 16), int(match[3], 16)
                inputs.append(Input(output, match[1], address, size, match[4]))
        elif match := OUTPUT.match(line):
            output = match[1]
        elif before and (match := REST.match(line)):
            if before.startswith(" "):
                if match[3]:
                    address, size = int(match[1], 16), int(match[2], 16)
                    inputs.append(Input(output, before[1:], address, size, match[3]))
            else:
                output = before
        elif re.match(r"^ ?[^\s*]", line):
            pending = line
    return Map(regions, inputs)


def read_image(path: Path) -> Image:
    with path.open("rb") as stream:
        elf = ELFFile(stream)
        sections = [
            Section(s.name, s["sh_addr"], s["sh_size"], s["sh_type"], s["sh_flags"])
            for s in elf.iter_sections()
        ]
        segments = [
            Segment(s["p_vaddr"], s["p_paddr"], s["p_filesz"])
            for s in elf.iter_segments("PT_LOAD")
        ]
        table = elf.get_section_by_name(".symtab")
        if not isinstance(table, SymbolTableSection):
            raise Error(f"{path} has no symbols")
        symbols = [
            Symbol(s.name, sections[s["st_shndx"]].name, s["st_value"], s["st_size"])
            for s in table.iter_symbols()
            if s["st_info"]["type"] == "STT_OBJECT"
            and isinstance(s["st_shndx"], int)
            and s["st_size"] > 0
        ]
        return Image(elf["e_type"] == "ET_REL", sections, segments, symbols)


def read_config(path: Path) -> dict[str, str]:
    lines = (line.partition("=") for line in path.read_text().splitlines() if line[:1] == "C")
    return {name: value.strip('"') for name, _, value in lines}


def rust_name(symbol: str) -> str:
    """A static's path without hashes; a name that is no plain path of Rust's stays as it is."""
    if match := re.match(r"^_ZN(.+)17h[0-9a-f]{16}E", symbol):
        path, count, identifier = match[1], None, re.compile(r"(\d+)")
    elif match := re.match(r"^_R((?:N[A-Za-z])+)C(.+)", symbol):
        # A disambiguator may come before an identifier, and an underscore before its first digit.
        path, count = match[2], len(match[1]) // 2 + 1
        identifier = re.compile(r"(?:s[0-9A-Za-z]*_)?u?(\d+)_?")
    else:
        return symbol
    names, at = [], 0
    while len(names) != count and (match := identifier.match(path, at)):
        at = match.end() + int(match[1])
        names.append(path[match.end() : at])
    return "::".join(names[names[:1] == ["rustapp"] :]) or symbol


class Layout:
    """The image's sections, with the symbols and files that they are made of."""

    def __init__(self, image: Image, linked: Map, config: dict[str, str]):
        self.image, self.linked, self.config = image, linked, config
        self.board = config.get("CONFIG_BOARD_TARGET", "")
        self.inputs: dict[str, list[Input]] = defaultdict(list)
        for section in linked.inputs:
            if section.size:
                self.inputs[section.output].append(section)
        self.symbols: dict[str, list[Symbol]] = defaultdict(list)
        for symbol in image.symbols:
            self.symbols[symbol.section].append(symbol)
        self.ram = self._ram()

    def symbol(self, name: str) -> Symbol | None:
        return next((s for s in self.image.symbols if s.name == name), None)

    def region(self, address: int) -> Region | None:
        return next((r for r in self.linked.regions if r.holds(address)), None)

    def _ram(self) -> Region | None:
        """The region with the proplet's stacks; without them, with most of what can be written."""
        sizes: dict[Region, int] = defaultdict(int)
        stacks = self.symbol(WORKER_STACKS)
        if stacks and not self.image.relocatable:
            return self.region(stacks.value)
        for section in self.image.sections:
            region = self.region(section.address)
            if region and section.flags & SH_FLAGS.SHF_WRITE and section.flags & SH_FLAGS.SHF_ALLOC:
                sizes[region] += section.size
        return max(sizes, key=lambda region: sizes[region], default=None)

    def allocated(self) -> Iterator[Section]:
        for section in self.image.sections:
            # A template of thread-local variables that are zero takes no space.
            is_template = section.flags & SH_FLAGS.SHF_TLS and section.kind == "SHT_NOBITS"
            if section.flags & SH_FLAGS.SHF_ALLOC and section.size and not is_template:
                yield section

    def in_ram(self) -> Iterator[Section]:
        for section in self.allocated():
            if self.image.relocatable:
                # Constants that are relocated are in flash elsewhere.
                constant = section.name.startswith(".data.rel.ro")
                if section.flags & SH_FLAGS.SHF_WRITE and not constant:
                    yield section
            elif self.ram and self.ram.holds(section.address):
                yield section

    def home(self, symbol: Symbol) -> Input | None:
        """The input section that a symbol lies in."""
        for section in self.inputs[symbol.section]:
            if section.address <= symbol.value < section.address + section.size:
                return section
        return None

    def stacks(self) -> list[tuple[Symbol, Input | None]]:
        """All thread stacks that can be told by their names, the workers' among them."""
        variables = {section.name for section in self.in_ram()}
        return [
            (symbol, home)
            for symbol in self.image.symbols
            if symbol.section in variables and is_stack(symbol, home := self.home(symbol))
        ]

    def pieces(self) -> Iterator[Piece]:
        """All bytes of RAM that the image takes, each once."""
        for section in self.in_ram():
            rest = section.size
            inputs = self.inputs[section.name]
            for part in inputs:
                for piece in self._pieces_of(part):
                    rest -= piece.size
                    yield piece
            if rest > 0:
                category = "alignment" if inputs else "other"
                yield Piece(category, section.name, rest)

    def _pieces_of(self, part: Input) -> Iterator[Piece]:
        at, end = part.address, part.address + part.size
        taken = 0
        inside = (s for s in self.symbols[part.output] if at <= s.value < end)
        for symbol in sorted(inside, key=lambda s: (s.value, -s.size)):
            # An alias of what has been counted, or a part of it.
            if symbol.value < at:
                continue
            size = min(symbol.size, end - symbol.value)
            at = symbol.value + size
            taken += size
            category = category_of(symbol, part)
            name = rust_name(symbol.name) if category == "Rust statics" else symbol.name
            yield Piece(category, name, size)
        if part.size > taken:
            unnamed = Symbol("", part.output, part.address, part.size)
            name = part.name if at == part.address else f"{part.name}, unnamed"
            yield Piece(category_of(unnamed, part), name, part.size - taken)

    def used(self, region: Region) -> int:
        """Up to the last byte that is used, as ld counts it: in place, or as what is loaded."""
        ends = [s.address + s.size for s in self.allocated() if region.holds(s.address)]
        ends += [
            s.physical + s.file_size
            for s in self.image.segments
            if s.file_size and region.holds(s.physical)
        ]
        return max(ends, default=region.origin) - region.origin

    def flash(self) -> Region | None:
        """The region that most of the image is loaded from, unless that is RAM."""
        sizes: dict[Region, int] = defaultdict(int)
        for segment in self.image.segments:
            region = self.region(segment.physical)
            if region and region != self.ram:
                sizes[region] += segment.file_size
        return max(sizes, key=lambda region: sizes[region], default=None)


def is_stack(symbol: Symbol, home: Input | None) -> bool:
    return (
        symbol.size >= STACK_MIN
        and STACK_NAME.search(symbol.name) is not None
        and (home is None or VARIABLES.match(home.name) is not None)
    )


def in_noinit(home: Input | None) -> bool:
    return bool(home and NOINIT_INPUT.match(home.name) and NOINIT_OUTPUT.search(home.output))


def category_of(symbol: Symbol, home: Input) -> str:
    if symbol.name == WORKER_STACKS:
        return "worker stacks"
    if symbol.name == ARENA:
        return "malloc arena"
    if is_stack(symbol, home):
        return "other thread stacks"
    if "librustapp.a(" in home.file:
        return "Rust statics"
    in_net = re.search(r"(subsys|drivers)/(net|ethernet|wifi)/", home.file)
    if NET_POOL.match(symbol.name) or (in_net and SLAB.match(symbol.name)):
        return "network buffers"
    if HEAP.search(symbol.name) and symbol.size >= HEAP_MIN:
        return "kernel heaps"
    if home.file.startswith("app/") or "wamr" in home.file.rpartition("/")[2]:
        return "proplet's C and WAMR"
    if home.file.startswith("zephyr/"):
        return "kernel and drivers"
    return "other"


def report(layout: Layout, least: int) -> dict:
    sums: dict[str, int] = defaultdict(int)
    items: dict[str, dict[str, int]] = defaultdict(lambda: defaultdict(int))
    for piece in layout.pieces():
        sums[piece.category] += piece.size
        items[piece.category][piece.name] += piece.size
    used = sum(sums.values())
    flash = layout.flash()
    if layout.ram:
        # What lies between sections.
        sums["alignment"] += max(layout.used(layout.ram) - used, 0)
        used = max(layout.used(layout.ram), used)
    total = layout.ram.length if layout.ram else used
    return {
        "board": layout.board,
        "ram": {
            "region": layout.ram.name if layout.ram else None,
            "used": used,
            "free": layout.ram.length - used if layout.ram else None,
            "total": layout.ram.length if layout.ram else None,
        },
        "categories": [
            {
                "name": name,
                "bytes": size,
                "percent": percent(size, total),
                "items": [
                    {"name": item, "bytes": bytes_}
                    for item, bytes_ in sorted(items[name].items(), key=lambda i: (-i[1], i[0]))
                    if bytes_ >= least
                ],
            }
            for name, size in sorted(sums.items(), key=lambda s: (-s[1], s[0]))
            if size
        ],
        "flash": region_report(layout, flash) if flash else None,
        "regions": [
            region_report(layout, region)
            for region in layout.linked.regions
            # Devicetree's regions may be the same memory by another name.
            if not any(main and region.overlaps(main) for main in (layout.ram, flash))
            and layout.used(region)
        ],
    }


def region_report(layout: Layout, region: Region) -> dict:
    used = layout.used(region)
    return {
        "region": region.name,
        "used": used,
        "free": region.length - used,
        "total": region.length,
    }


def percent(part: int, total: int) -> float:
    return round(100 * part / total, 1) if total else 0.0


def render(data: dict) -> str:
    ram = data["ram"]
    total = ram["total"] or ram["used"]
    where = f"RAM of {data['board']}" + (f" ({ram['region']})" if ram["region"] else "")
    lines = [f"{where:<58}{'bytes':>12}{'%':>8}"]

    def line(depth: int, name: str, size: int, whole: int) -> None:
        width = 56 - 2 * depth
        if len(name) > width:
            name = "…" + name[1 - width :]
        lines.append(f"{'  ' * depth}{name:<{width}}  {size:>12,}{percent(size, whole):>8.1f}")

    for category in data["categories"]:
        line(0, category["name"], category["bytes"], total)
        shown = category["items"]
        if len(shown) == 1 and shown[0]["bytes"] == category["bytes"]:
            continue
        for item in shown:
            line(1, item["name"], item["bytes"], total)
        rest = category["bytes"] - sum(item["bytes"] for item in shown)
        if shown and rest:
            line(1, "smaller ones", rest, total)
    lines.append("-" * 78)
    line(0, "used", ram["used"], total)
    if ram["region"]:
        line(0, "free", ram["free"], total)
        line(0, "all", ram["total"], total)
    else:
        lines.append("free: not known, the link has no RAM region (native_sim's is the host's)")
    lines.append("")
    regions = ([data["flash"]] if data["flash"] else []) + data["regions"]
    if not data["flash"]:
        lines.append("flash: the link has no region for it")
    for region in regions:
        label = "flash" if region is data["flash"] else "region"
        name = f"{label} {region['region']}, of {region['total']:,}"
        line(0, name, region["used"], region["total"])
    return "\n".join(lines)


def number(config: dict[str, str], name: str) -> int:
    try:
        return int(config[name], 0)
    except (KeyError, ValueError):
        raise Error(f"{name} is not in the configuration, or no number") from None


def check(layout: Layout, build: Path) -> list[str]:
    """What is wrong with the layout, one sentence each."""
    wrong = [*check_stacks(layout), *check_arena(layout), *check_noinit(layout)]
    try:
        wrong += check_allocators(layout, build)
    except Error as e:
        wrong.append(str(e))
    return wrong


def check_stacks(layout: Layout) -> Iterator[str]:
    least = number(layout.config, "CONFIG_PROPLET_WORKERS") * number(
        layout.config, "CONFIG_PROPLET_WORKER_STACK_SIZE"
    )
    stacks = layout.stacks()
    if not any(symbol.name == WORKER_STACKS for symbol, _ in stacks):
        yield f"{WORKER_STACKS} is not in RAM"
    for symbol, home in stacks:
        if symbol.name == WORKER_STACKS and symbol.size < least:
            yield (
                f"{WORKER_STACKS} has {symbol.size} bytes, and CONFIG_PROPLET_WORKERS times"
                f" CONFIG_PROPLET_WORKER_STACK_SIZE is {least}"
            )
        if not in_noinit(home) and symbol.name not in VENDOR_STACKS:
            where = f"{home.name} of {home.file}" if home else symbol.section
            yield f"the stack {symbol.name} ({symbol.size} bytes) is not in .noinit, but in {where}"


def check_arena(layout: Layout) -> Iterator[str]:
    size = number(layout.config, "CONFIG_PROPLET_ARENA_SIZE")
    least = number(layout.config, "CONFIG_PROPLET_WORKERS") * number(
        layout.config, "CONFIG_PROPLET_GUEST_STACK_SIZE_MAX"
    )
    if number(layout.config, "CONFIG_COMMON_LIBC_MALLOC_ARENA_SIZE") == -1:
        # All RAM that is left at boot, where the proplet compares it with what the workers need.
        return
    arena = layout.symbol(ARENA)
    if arena is None:
        yield f"{ARENA} is missing: the C library's malloc is not Zephyr's, or has no static arena"
        return
    if not size <= arena.size < size + ARENA_ROUNDING:
        yield f"{ARENA} has {arena.size} bytes, and CONFIG_PROPLET_ARENA_SIZE is {size}"
    if arena.size < least:
        yield (
            f"{ARENA} has {arena.size} bytes, and CONFIG_PROPLET_WORKERS times"
            f" CONFIG_PROPLET_GUEST_STACK_SIZE_MAX is {least}"
        )
    for stack, _ in layout.stacks():
        begins_before = stack.value < arena.value + arena.size
        ends_after = arena.value < stack.value + stack.size
        if stack.section == arena.section and begins_before and ends_after:
            yield f"the stack {stack.name} overlaps with {ARENA}"


def check_noinit(layout: Layout) -> Iterator[str]:
    """On a board, .noinit is neither loaded nor part of what is flashed."""
    if layout.image.relocatable:
        return
    for section in layout.allocated():
        if not NOINIT_OUTPUT.search(section.name):
            continue
        if section.kind != "SHT_NOBITS":
            yield f"{section.name} is {section.kind}, not NOBITS: it is part of the flash image"
        for segment in layout.image.segments:
            loaded = segment.virtual + segment.file_size
            if section.address < loaded and segment.virtual < section.address + section.size:
                yield f"{section.name} lies in a segment's bytes in the file: it is loaded"


def check_allocators(layout: Layout, build: Path) -> Iterator[str]:
    """Nothing but proplet_arena refers to malloc and its like.

    A final ELF file has no relocations, but the objects it was linked from have, and the map says
    which of their sections are in the image.
    """
    kept: dict[str, set[str]] = defaultdict(set)
    for section in layout.linked.inputs:
        # Veneers for long jumps, which ld writes.
        if section.file != "linker stubs":
            kept[section.file].add(section.name)
    archives: dict[str, set[str]] = defaultdict(set)
    for file in kept:
        match = re.match(r"^(.*)\(([^()]*)\)$", file)
        archives[match[1] if match else file].add(match[2] if match else "")
    for archive, names in archives.items():
        path = build / archive
        try:
            data = path.read_bytes()
        except OSError as e:
            raise Error(f"who calls malloc can't be told: {path}: {e.strerror}") from None
        objects = archive_members(data, path) if data.startswith(b"!<") else [("", data)]
        for name, data in objects:
            if name not in names or not any(n.encode() + b"\0" in data for n in ALLOCATORS):
                continue
            file = f"{archive}({name})" if name else archive
            for caller, callee in references(data, kept[file]):
                if caller not in MAY_ALLOCATE:
                    yield f"{caller} refers to {callee}, and only proplet_arena may: {file}"


def archive_members(data: bytes, path: Path) -> Iterator[tuple[str, bytes]]:
    if not data.startswith(b"!<arch>\n"):
        raise Error(f"who calls malloc can't be told: {path} is a thin archive")
    long_names = b""
    at = 8
    while at + 60 <= len(data):
        header = data[at : at + 60]
        size = int(header[48:58])
        content = data[at + 60 : at + 60 + size]
        name = header[:16].rstrip()
        if name == b"//":
            long_names = content
        elif name not in (b"/", b"/SYM64/"):
            if name.startswith(b"/"):
                name = long_names[int(name[1:]) :].partition(b"\n")[0]
            yield name.removesuffix(b"/").decode(errors="replace"), content
        # Members begin at even offsets.
        at += 60 + size + size % 2


def references(data: bytes, kept: set[str]) -> Iterator[tuple[str, str]]:
    """Who in an object refers to which allocator, as far as it is in the image."""
    elf = ELFFile(BytesIO(data))
    table = elf.get_section_by_name(".symtab")
    if not isinstance(table, SymbolTableSection):
        return
    symbols = list(table.iter_symbols())
    if any(s.name in ALLOCATORS and s["st_shndx"] != "SHN_UNDEF" for s in symbols):
        # The library's own: what it needs, it may call.
        return
    wanted = {i: s.name for i, s in enumerate(symbols) if s.name in ALLOCATORS}
    seen = set()
    for relocations in elf.iter_sections():
        if not wanted or not isinstance(relocations, RelocationSection):
            continue
        index = relocations["sh_info"]
        target = elf.get_section(index)
        if not target["sh_flags"] & SH_FLAGS.SHF_ALLOC or target.name not in kept:
            continue
        for relocation in relocations.iter_relocations():
            if callee := wanted.get(relocation["r_info_sym"]):
                caller = owner(symbols, index, relocation["r_offset"]) or target.name
                if (caller, callee) not in seen:
                    seen.add((caller, callee))
                    yield caller, callee


def owner(symbols: list, section: int, offset: int) -> str:
    for symbol in symbols:
        if symbol["st_shndx"] == section and symbol["st_size"]:
            start = symbol["st_value"]
            if symbol["st_info"]["type"] == "STT_FUNC":
                # Thumb's marker.
                start &= ~1
            if start <= offset < start + symbol["st_size"]:
                return symbol.name
    return ""


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description="Where the firmware's memory goes.")
    parser.add_argument("--elf", type=Path, required=True, help="zephyr.elf")
    parser.add_argument("--map", type=Path, required=True, help="zephyr.map")
    parser.add_argument("--config", type=Path, required=True, help=".config")
    parser.add_argument(
        "--build", type=Path, help="what the map's paths start from; by default, the map's .."
    )
    parser.add_argument(
        "--min", type=int, default=1024, metavar="BYTES", help="smallest item that is named (1024)"
    )
    how = parser.add_mutually_exclusive_group()
    how.add_argument("--json", action="store_true", help="print JSON instead of the table")
    how.add_argument("--check", action="store_true", help="check the layout; status 1 if wrong")
    options = parser.parse_args(arguments)
    try:
        layout = Layout(
            read_image(options.elf),
            parse_map(options.map.read_text(errors="replace")),
            read_config(options.config),
        )
        if options.check:
            wrong = check(layout, options.build or options.map.resolve().parent.parent)
            for sentence in wrong:
                print(f"error: memory layout: {sentence}", file=sys.stderr)
            if not wrong:
                stacks = f"{len(layout.stacks())} stacks in .noinit"
                print(f"memory layout of {layout.board}: as it should be, {stacks}")
            return 1 if wrong else 0
        data = report(layout, options.min)
        print(json.dumps(data, indent=2) if options.json else render(data))
    except (Error, OSError) as e:
        print(f"error: {e}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
