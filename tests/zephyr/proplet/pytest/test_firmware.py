# SPDX-License-Identifier: Apache-2.0
"""Starts the firmware that twister has built, and runs the integration tests with it."""

import os
import subprocess
from pathlib import Path

from twister_harness import DeviceAdapter

ROOT = Path(__file__).resolve().parents[4]

# The build may need another Rust than the tests, which are programs of this machine.
OF_THE_BUILD = ("RUSTC", "RUSTC_BOOTSTRAP", "CARGO_UNSTABLE_BUILD_STD", "CARGO_BUILD_TARGET")


def test_boot(dut: DeviceAdapter) -> None:
    dut.readlines_until(regex=r"\*\*\* Booting Zephyr OS", timeout=20)
    dut.readlines_until(regex=r"proplet [\d.]+ on native_sim", timeout=20)
    # Nobody has told it who it is.
    dut.readlines_until(regex="proplet_id is not set", timeout=20)


def test_scenarios(unlaunched_dut: DeviceAdapter) -> None:
    firmware = unlaunched_dut.device_config.app_build_dir / "zephyr" / "zephyr.exe"
    env = {name: value for name, value in os.environ.items() if name not in OF_THE_BUILD}
    env["PROPLET_FIRMWARE"] = str(firmware)
    command = ["cargo", "test", "--locked", "-p", "proplet-host", "--test", "firmware"]
    done = subprocess.run(command, cwd=ROOT, env=env, check=False)
    assert done.returncode == 0, f"{' '.join(command)}: exit {done.returncode}"
