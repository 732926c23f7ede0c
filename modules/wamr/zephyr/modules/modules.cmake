# SPDX-License-Identifier: Apache-2.0

# WAMR's module.yml leaves its Kconfig and CMake files to whoever uses it, and configuring fails
# without them. Both are empty: proplet-wamr compiles WAMR, whether it is a module or WAMR_ROOT.
set(ZEPHYR_WASM_MICRO_RUNTIME_KCONFIG ${CMAKE_CURRENT_LIST_DIR}/wasm-micro-runtime/Kconfig)
set(ZEPHYR_WASM_MICRO_RUNTIME_CMAKE_DIR ${CMAKE_CURRENT_LIST_DIR}/wasm-micro-runtime)
