#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""Tests of proplet_memory: python -m unittest discover scripts"""

import contextlib
import io
import shutil
import subprocess
import tempfile
import unittest
from pathlib import Path
from unittest import mock

import proplet_memory as memory
from elftools.elf.constants import SH_FLAGS

WRITABLE = SH_FLAGS.SHF_ALLOC | SH_FLAGS.SHF_WRITE
THREADS = "app/libapp.a(threads.c.obj)"
LIBC = "zephyr/lib/libc/common/liblib__libc__common.a(malloc.c.obj)"
RUST = "ports/zephyr/rust/target/thumb/release/librustapp.a(rustapp-0.rcgu.o)"

MAP = """\
Archive member included to satisfy reference by file (symbol)

Discarded input sections

 .text.calloc   0x00000000       0x10 zephyr/libc.a(malloc.c.obj)

Memory Configuration

Name             Origin             Length             Attributes
FLASH            0x10000000         0x00001000         xr
RAM              0x20000000         0x00001000         xw
*default*        0x00000000         0xffffffff

Linker script and memory map

LOAD app/libapp.a
                0x00000001                _region_min_align = 0x1

text            0x10000000       0x20
 *(SORT_BY_ALIGNMENT(.text))
 .text          0x10000000       0x10 app/libapp.a(main.c.obj)
                0x10000000                main
 *fill*         0x10000010        0x4 
 .text._a_name_too_long_for_its_column
                0x10000014        0xc app/libapp.a(main.c.obj)
                                 0x10 (size before relaxing)

an_output_name_too_long
                0x20000000       0x10 load address 0x10000020
 .data.x        0x20000000       0x10 a folder/libx.a(x.c.obj)

noinit          0x20000010       0x40
 .noinit."CMAKE_SOURCE_DIR/a folder/threads.c".0
                0x20000010       0x40 app/libapp.a(threads.c.obj)
                0x20000010                proplet_worker_stacks
 *fill*         0x20000050        0x0 

Cross Reference Table

 .text          0x10000000       0x10 not/part.a(of.it)
"""


class ParseMap(unittest.TestCase):
    def test_regions_are_without_the_default(self) -> None:
        regions = memory.parse_map(MAP).regions
        self.assertEqual(
            regions,
            [
                memory.Region("FLASH", 0x10000000, 0x1000),
                memory.Region("RAM", 0x20000000, 0x1000),
            ],
        )

    def test_inputs_are_what_was_linked(self) -> None:
        main = "app/libapp.a(main.c.obj)"
        stacks = '.noinit."CMAKE_SOURCE_DIR/a folder/threads.c".0'
        self.assertEqual(
            memory.parse_map(MAP).inputs,
            [
                memory.Input("text", ".text", 0x10000000, 0x10, main),
                memory.Input(
                    "text", ".text._a_name_too_long_for_its_column", 0x10000014, 0xC, main
                ),
                memory.Input(
                    "an_output_name_too_long",
                    ".data.x",
                    0x20000000,
                    0x10,
                    "a folder/libx.a(x.c.obj)",
                ),
                memory.Input("noinit", stacks, 0x20000010, 0x40, THREADS),
            ],
        )

    def test_relocatable_link_has_sections_at_zero(self) -> None:
        name = '.noinit."CMAKE_SOURCE_DIR/c/threads.c".0'
        text = (
            "\nMemory Configuration\n\n*default* 0x0 0xffffffffffffffff\n"
            "\nLinker script and memory map\n"
            f"\n{name}\n                0x0000000000000000     0xc000\n"
            f" {name}\n                0x0000000000000000     0xc000 {THREADS}\n"
            "                0x0000000000000000                proplet_worker_stacks\n"
        )
        linked = memory.parse_map(text)
        self.assertEqual(linked.regions, [])
        self.assertEqual(linked.inputs, [memory.Input(name, name, 0, 0xC000, THREADS)])

    def test_another_file_is_refused(self) -> None:
        with self.assertRaises(memory.Error):
            memory.parse_map("VMA LMA Size Align Out In Symbol")


class RustName(unittest.TestCase):
    def test_paths(self) -> None:
        for mangled, name in {
            "_RNvNtCsdgOH8syUywE_7rustapp4boot4RUNS": "boot::RUNS",
            "_RNvNtCs2p6mJVSr9dp_3ryu14d2s_full_table17DOUBLE_POW5_SPLIT": (
                "ryu::d2s_full_table::DOUBLE_POW5_SPLIT"
            ),
            "_RNvNtCs1_7rustapp3net2__X": "net::_X",
            "_RNvNtCs1_7rustapp3net1X.llvm.123": "net::X",
            "_ZN7rustapp4boot4RUNS17h0123456789abcdefE": "boot::RUNS",
            "_ZN7rustapp4boot4RUNS17h0123456789abcdefE.0": "boot::RUNS",
            "malloc_arena": "malloc_arena",
            # In an impl: no plain path.
            "_RNvMs_Cs1_7rustapp1X": "_RNvMs_Cs1_7rustapp1X",
        }.items():
            with self.subTest(mangled):
                self.assertEqual(memory.rust_name(mangled), name)


class Firmware:
    """A small board's image, to be broken by the tests."""

    def __init__(self) -> None:
        self.config = {
            "CONFIG_BOARD_TARGET": "board",
            "CONFIG_PROPLET_WORKERS": "2",
            "CONFIG_PROPLET_WORKER_STACK_SIZE": "0x100",
            "CONFIG_PROPLET_ARENA_SIZE": "1024",
            "CONFIG_COMMON_LIBC_MALLOC_ARENA_SIZE": "1024",
            "CONFIG_PROPLET_GUEST_STACK_SIZE_MAX": "512",
        }
        self.regions = [
            memory.Region("FLASH", 0x1000, 0x1000),
            memory.Region("RAM", 0x8000, 0x1000),
            memory.Region("SRAM0", 0x8000, 0x1000),
        ]
        self.sections = {
            "text": memory.Section("text", 0x1000, 0x200, "SHT_PROGBITS", SH_FLAGS.SHF_ALLOC),
            "datas": memory.Section("datas", 0x8000, 0x20, "SHT_PROGBITS", WRITABLE),
            "bss": memory.Section("bss", 0x8020, 0xE0, "SHT_NOBITS", WRITABLE),
            "noinit": memory.Section("noinit", 0x8100, 0x680, "SHT_NOBITS", WRITABLE),
        }
        self.segments = [
            memory.Segment(0x1000, 0x1000, 0x200),
            memory.Segment(0x8000, 0x1200, 0x20),
            memory.Segment(0x8020, 0x8020, 0),
        ]
        self.inputs = [
            memory.Input("datas", ".data.x", 0x8000, 0x20, "zephyr/libzephyr.a(x.c.obj)"),
            memory.Input("bss", ".bss.RX", 0x8020, 0x41, RUST),
            memory.Input("bss", ".bss", 0x8064, 0x80, "modules/libhal.a(hal.c.obj)"),
            memory.Input("noinit", '.noinit."threads.c".0', 0x8100, 0x200, THREADS),
            memory.Input("noinit", ".noinit.0", 0x8300, 0x80, "zephyr/kernel/libkernel.a(i.c.obj)"),
            memory.Input("noinit", '.noinit."malloc.c".0', 0x8380, 0x400, LIBC),
        ]
        self.symbols = {
            symbol.name: symbol
            for symbol in [
                memory.Symbol("_RNvNtCs1_7rustapp4boot2RX", "bss", 0x8020, 0x41),
                memory.Symbol("hal_state", "bss", 0x8064, 0x10),
                memory.Symbol("hal_alias", "bss", 0x8064, 0x10),
                memory.Symbol("proplet_worker_stacks", "noinit", 0x8100, 0x200),
                memory.Symbol("z_idle_stacks", "noinit", 0x8300, 0x80),
                memory.Symbol("malloc_arena", "noinit", 0x8380, 0x400),
            ]
        }

    def layout(self) -> memory.Layout:
        image = memory.Image(
            False, list(self.sections.values()), self.segments, list(self.symbols.values())
        )
        return memory.Layout(image, memory.Map(self.regions, self.inputs), self.config)

    def wrong(self) -> list[str]:
        layout = self.layout()
        return [
            *memory.check_stacks(layout),
            *memory.check_arena(layout),
            *memory.check_noinit(layout),
        ]


class Check(unittest.TestCase):
    def setUp(self) -> None:
        self.firmware = Firmware()

    def assert_wrong(self, *parts: str) -> None:
        wrong = self.firmware.wrong()
        self.assertEqual(len(wrong), len(parts), wrong)
        for sentence, part in zip(wrong, parts):
            self.assertIn(part, sentence)

    def change(self, name: str, **values: object) -> None:
        symbols = self.firmware.symbols
        symbols[name] = symbols[name]._replace(**values)

    def test_good(self) -> None:
        self.assert_wrong()

    def test_worker_stacks_in_bss(self) -> None:
        self.firmware.inputs[3] = memory.Input("bss", ".bss.w", 0x8100, 0x200, THREADS)
        self.change("proplet_worker_stacks", section="bss")
        self.assert_wrong("proplet_worker_stacks (512 bytes) is not in .noinit, but in .bss.w of")

    def test_noinit_input_in_another_output(self) -> None:
        # As when a linker script gathers it elsewhere.
        self.firmware.inputs[4] = self.firmware.inputs[4]._replace(output="bss")
        self.change("z_idle_stacks", section="bss")
        self.assert_wrong("the stack z_idle_stacks (128 bytes) is not in .noinit")

    def test_espressif_calls_it_dram0_noinit(self) -> None:
        rename = {"noinit": ".dram0.noinit"}
        self.firmware.sections[".dram0.noinit"] = self.firmware.sections.pop("noinit")._replace(
            name=".dram0.noinit"
        )
        self.firmware.inputs = [
            i._replace(output=rename.get(i.output, i.output)) for i in self.firmware.inputs
        ]
        for name, symbol in self.firmware.symbols.items():
            self.change(name, section=rename.get(symbol.section, symbol.section))
        self.assert_wrong()

    def test_too_few_worker_stacks(self) -> None:
        self.firmware.config["CONFIG_PROPLET_WORKERS"] = "3"
        self.firmware.config["CONFIG_PROPLET_GUEST_STACK_SIZE_MAX"] = "1"
        self.assert_wrong("proplet_worker_stacks has 512 bytes")

    def test_no_worker_stacks(self) -> None:
        del self.firmware.symbols["proplet_worker_stacks"]
        self.assert_wrong("proplet_worker_stacks is not in RAM")

    def test_a_table_about_stacks_is_no_stack(self) -> None:
        self.firmware.inputs.append(memory.Input("bss", "._shell.stacks", 0x80F0, 0x80, "x.a(x.o)"))
        symbol = memory.Symbol("shell_subcmds_thread_stacks", "bss", 0x80F0, 0x80)
        self.firmware.symbols[symbol.name] = symbol
        self.assert_wrong()

    def test_arena_is_missing(self) -> None:
        del self.firmware.symbols["malloc_arena"]
        self.assert_wrong("malloc_arena is missing")

    def test_an_arena_of_all_that_is_left_has_no_size_at_link_time(self) -> None:
        self.firmware.config["CONFIG_COMMON_LIBC_MALLOC_ARENA_SIZE"] = "-1"
        self.firmware.config["CONFIG_PROPLET_ARENA_SIZE"] = "2048"
        self.assert_wrong()

    def test_arena_may_be_rounded_up(self) -> None:
        self.firmware.config["CONFIG_PROPLET_ARENA_SIZE"] = "1000"
        self.firmware.config["CONFIG_PROPLET_GUEST_STACK_SIZE_MAX"] = "500"
        self.assert_wrong()

    def test_arena_of_another_size(self) -> None:
        self.firmware.config["CONFIG_PROPLET_ARENA_SIZE"] = "2048"
        self.assert_wrong("CONFIG_PROPLET_ARENA_SIZE is 2048")

    def test_arena_too_small_for_the_slots(self) -> None:
        self.firmware.config["CONFIG_PROPLET_GUEST_STACK_SIZE_MAX"] = "513"
        self.assert_wrong("CONFIG_PROPLET_GUEST_STACK_SIZE_MAX is 1026")

    def test_arena_over_a_stack(self) -> None:
        self.change("malloc_arena", value=0x837F)
        self.assert_wrong("the stack z_idle_stacks overlaps with malloc_arena")

    def test_noinit_in_the_flash_image(self) -> None:
        noinit = self.firmware.sections["noinit"]
        self.firmware.sections["noinit"] = noinit._replace(kind="SHT_PROGBITS")
        self.firmware.segments[2] = memory.Segment(0x8020, 0x1220, 0x760)
        self.assert_wrong("noinit is SHT_PROGBITS", "noinit lies in a segment's bytes")

    def test_configuration_of_another_application(self) -> None:
        del self.firmware.config["CONFIG_PROPLET_WORKERS"]
        with self.assertRaises(memory.Error):
            self.firmware.wrong()


class Report(unittest.TestCase):
    def test_every_byte_is_counted_once(self) -> None:
        data = memory.report(Firmware().layout(), 16)
        self.assertEqual(
            {category["name"]: category["bytes"] for category in data["categories"]},
            {
                "malloc arena": 0x400,
                "worker stacks": 0x200,
                "other thread stacks": 0x80,
                "other": 0x80,
                "Rust statics": 0x41,
                "kernel and drivers": 0x20,
                "alignment": 0xE0 - 0x41 - 0x80,
            },
        )
        sizes = [category["bytes"] for category in data["categories"]]
        self.assertEqual(sizes, sorted(sizes, reverse=True))
        self.assertEqual(sum(sizes), 0x780)
        self.assertEqual(
            data["ram"], {"region": "RAM", "used": 0x780, "free": 0x880, "total": 0x1000}
        )
        self.assertEqual(
            data["flash"], {"region": "FLASH", "used": 0x220, "free": 0xDE0, "total": 0x1000}
        )
        # The same memory by another name.
        self.assertEqual(data["regions"], [])

    def test_rust_statics_have_names(self) -> None:
        data = memory.report(Firmware().layout(), 16)
        rust = next(c for c in data["categories"] if c["name"] == "Rust statics")
        self.assertEqual(rust["items"], [{"name": "boot::RX", "bytes": 0x41}])

    def test_table_has_80_columns(self) -> None:
        firmware = Firmware()
        name = "a" * 100
        firmware.symbols[name] = memory.Symbol(name, "bss", 0x8074, 0x20)
        text = memory.render(memory.report(firmware.layout(), 1))
        self.assertLessEqual(max(map(len, text.splitlines())), 80)


def archive(*members: tuple[str, bytes]) -> bytes:
    """As GNU ar writes it: a table of symbols, long names, members."""

    def member(name: str, data: bytes) -> bytes:
        head = f"{name:<16}{0:<12}{0:<6}{0:<6}{644:<8}{len(data):<10}`\n".encode()
        return head + data + b"\n" * (len(data) % 2)

    long_names, parts = "", []
    for name, data in members:
        if len(name) > 15:
            parts.append(member(f"/{len(long_names)}", data))
            long_names += f"{name}/\n"
        else:
            parts.append(member(f"{name}/", data))
    return b"!<arch>\n" + member("/", b"\0\0\0\0") + member("//", long_names.encode()) + b"".join(
        parts
    )


class Archive(unittest.TestCase):
    def test_members(self) -> None:
        members = [("a.o", b"odd"), ("a_name_longer_than_15.c.obj", b"even"), ("a.o", b"again")]
        read = list(memory.archive_members(archive(*members), Path("x.a")))
        self.assertEqual(read, members)

    def test_thin_archive_is_refused(self) -> None:
        with self.assertRaises(memory.Error):
            list(memory.archive_members(b"!<thin>\n", Path("x.a")))


class Allocators(unittest.TestCase):
    def wrong(self, file: str, data: bytes, references: list[tuple[str, str]]) -> list[str]:
        layout = Firmware().layout()
        layout.linked.inputs[:] = [memory.Input("text", ".text.f", 0x1000, 4, file)]
        with (
            mock.patch.object(Path, "read_bytes", return_value=data),
            mock.patch.object(memory, "references", return_value=references) as of,
        ):
            wrong = list(memory.check_allocators(layout, Path("build")))
        for call in of.call_args_list:
            self.assertEqual(call.args[1], {".text.f"})
        return wrong

    def test_a_caller_is_named(self) -> None:
        wrong = self.wrong("x.a(y.o)", archive(("y.o", b"\0malloc\0")), [("f", "malloc")])
        self.assertEqual(wrong, ["f refers to malloc, and only proplet_arena may: x.a(y.o)"])

    def test_proplet_arena_may(self) -> None:
        data = archive(("y.o", b"\0malloc\0"))
        self.assertEqual(self.wrong("x.a(y.o)", data, [("proplet_arena", "malloc")]), [])

    def test_what_is_not_linked_does_not_count(self) -> None:
        data = archive(("z.o", b"\0malloc\0"))
        self.assertEqual(self.wrong("x.a(y.o)", data, [("f", "malloc")]), [])

    def test_veneers_have_no_file(self) -> None:
        self.assertEqual(self.wrong("linker stubs", b"", [("f", "malloc")]), [])

    def test_missing_archive(self) -> None:
        wrong = memory.check(Firmware().layout(), Path("/nowhere"))
        self.assertEqual(len(wrong), 1)
        self.assertIn("who calls malloc can't be told: /nowhere/", wrong[0])


@unittest.skipUnless(shutil.which("cc"), "no C compiler")
class References(unittest.TestCase):
    def compile(self, source: str) -> bytes:
        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder, "x.o")
            command = ["cc", "-xc", "-", "-c", "-O1", "-fno-pic", "-o", str(path)]
            command += ["-ffunction-sections", "-fdata-sections", "-fno-builtin"]
            subprocess.run(command, input=source, text=True, check=True)
            return path.read_bytes()

    def test_calls_and_pointers_of_what_is_kept(self) -> None:
        data = self.compile(
            "void *malloc(unsigned long);"
            "void *calloc(unsigned long, unsigned long);"
            "void *kept(void) { return malloc(1); }"
            "void *dropped(void) { return malloc(2); }"
            "void *(*pointer)(unsigned long, unsigned long) = calloc;"
        )
        found = sorted(memory.references(data, {".text.kept", ".data.pointer"}))
        self.assertEqual(found, [("kept", "malloc"), ("pointer", "calloc")])

    def test_the_library_may_call_itself(self) -> None:
        data = self.compile(
            "void *malloc(unsigned long n) { return (void *)n; }"
            "void *calloc(unsigned long n, unsigned long m) { return malloc(n * m); }"
        )
        self.assertEqual(list(memory.references(data, {".text.malloc", ".text.calloc"})), [])


class Main(unittest.TestCase):
    def test_a_missing_file_is_said(self) -> None:
        stderr = io.StringIO()
        with contextlib.redirect_stderr(stderr):
            status = memory.main(["--elf", "/no", "--map", "/no", "--config", "/no", "--check"])
        self.assertEqual(status, 1)
        self.assertIn("/no", stderr.getvalue())


if __name__ == "__main__":
    unittest.main()
