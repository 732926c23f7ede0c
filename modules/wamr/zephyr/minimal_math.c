/*
 * SPDX-License-Identifier: Apache-2.0
 *
 * WAMR's mathematical functions, for Zephyr's minimal libc, which has two of them: sqrt and sqrtf.
 * Those stop short of the last bit, where WebAssembly wants the nearest number; so WAMR's are
 * taken, by the names that wamr_config.h gives them.
 */

#include "platform_common.h"

#undef BH_HAS_SQRT
#undef BH_HAS_SQRTF

#include "math.c"
