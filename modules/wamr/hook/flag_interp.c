/*
 * SPDX-License-Identifier: Apache-2.0
 *
 * The interpreter that looks at a flag instead of counting: for guests that the system's scheduler
 * preempts.
 */

#define WAMR_INTERP_FLAGGED

#include "slice_interp.c"
