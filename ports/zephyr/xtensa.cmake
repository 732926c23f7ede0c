# SPDX-License-Identifier: Apache-2.0
#
# zephyr-lang-rust has no Xtensa. Espressif's Rust toolchain (espup) has: what replaces the map of
# targets here is asked for those chips alone, and everything else goes to the function that it
# replaces, which CMake keeps under its name with an underscore before it.

if(CONFIG_XTENSA)
  function(_rust_map_target)
    if(CONFIG_SOC_SERIES_ESP32S3)
      set(RUST_TARGET "xtensa-esp32s3-none-elf" PARENT_SCOPE)
    elseif(CONFIG_SOC_SERIES_ESP32)
      set(RUST_TARGET "xtensa-esp32-none-elf" PARENT_SCOPE)
    else()
      message(FATAL_ERROR "Rust on Xtensa: only the ESP32 and the ESP32-S3 have a target")
    endif()
  endfunction()
endif()
