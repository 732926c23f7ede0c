/*
 * SPDX-License-Identifier: Apache-2.0
 *
 * Analysis of a loaded module's code before it runs: how long it can run without a check, and how
 * much of the operand stack its exported functions use. Reads the code as the loader has rewritten
 * it, which it has validated.
 */

#include "analysis.h"

#include "bh_platform.h"
#include "wasm_interp.h"
#include "wasm_opcode.h"

/* Instructions that a unit of slice credit pays for. */
#define UNIT_INSTRUCTIONS 128

/* Cells of parameters and locals that are made in the time of an instruction, when a function is
   called. */
#define CELLS_INSTRUCTION 8

/* Nested `if`s whose arms are told apart; deeper ones count as if both arms were run. */
#define IFS_KNOWN 32

static const uint8 *
skip_leb(const uint8 *p)
{
    while (*p++ & 0x80)
        ;
    return p;
}

static const uint8 *
read_u32(const uint8 *p, uint32 *value)
{
    uint32 shift = 0;

    *value = 0;
    do {
        *value |= (uint32)(*p & 0x7f) << shift;
        shift += 7;
    } while (*p++ & 0x80);
    return p;
}

/* The immediates of an instruction with the prefix 0xfc, its opcode included. */
static const uint8 *
skip_misc(const uint8 *p)
{
    uint32 opcode;

    p = read_u32(p, &opcode);
    switch (opcode) {
        case WASM_OP_MEMORY_FILL:
        case WASM_OP_DATA_DROP:
        case WASM_OP_ELEM_DROP:
        case WASM_OP_TABLE_GROW:
        case WASM_OP_TABLE_SIZE:
        case WASM_OP_TABLE_FILL:
            return skip_leb(p);
        case WASM_OP_MEMORY_INIT:
        case WASM_OP_MEMORY_COPY:
        case WASM_OP_TABLE_INIT:
        case WASM_OP_TABLE_COPY:
            return skip_leb(skip_leb(p));
        default:
            return p;
    }
}

static const uint8 *
skip_br_table(const uint8 *p, bool cached)
{
    uint32 count;

    p = read_u32(p, &count);
    /* The labels are a byte each, or elsewhere; what was left of them is filled with `nop`. */
    return cached ? p : p + count + 1;
}

/* Behind the immediates of the instruction `opcode`, which begin at `p`. */
static const uint8 *
skip_immediates(uint8 opcode, const uint8 *p)
{
    switch (opcode) {
        case WASM_OP_BLOCK:
        case WASM_OP_LOOP:
        case WASM_OP_IF:
        case EXT_OP_GET_LOCAL_FAST:
        case EXT_OP_SET_LOCAL_FAST:
        case EXT_OP_TEE_LOCAL_FAST:
        case WASM_OP_REF_NULL:
            return p + 1;
        case EXT_OP_BLOCK:
        case EXT_OP_LOOP:
        case EXT_OP_IF:
        case WASM_OP_BR:
        case WASM_OP_BR_IF:
        case WASM_OP_CALL:
        case WASM_OP_REF_FUNC:
        case WASM_OP_GET_LOCAL:
        case WASM_OP_SET_LOCAL:
        case WASM_OP_TEE_LOCAL:
        case WASM_OP_GET_GLOBAL:
        case WASM_OP_SET_GLOBAL:
        case WASM_OP_GET_GLOBAL_64:
        case WASM_OP_SET_GLOBAL_64:
        case WASM_OP_SET_GLOBAL_AUX_STACK:
        case WASM_OP_TABLE_GET:
        case WASM_OP_TABLE_SET:
        case WASM_OP_MEMORY_SIZE:
        case WASM_OP_MEMORY_GROW:
        case WASM_OP_I32_CONST:
        case WASM_OP_I64_CONST:
            return skip_leb(p);
        case WASM_OP_CALL_INDIRECT:
            return skip_leb(skip_leb(p));
        case WASM_OP_SELECT_T:
            return skip_leb(p) + 1;
        case WASM_OP_BR_TABLE:
        case EXT_OP_BR_TABLE_CACHE:
            return skip_br_table(p, opcode == EXT_OP_BR_TABLE_CACHE);
        case WASM_OP_F32_CONST:
            return p + sizeof(float32);
        case WASM_OP_F64_CONST:
            return p + sizeof(float64);
        case WASM_OP_MISC_PREFIX:
            return skip_misc(p);
        default:
            break;
    }
    if (opcode >= WASM_OP_I32_LOAD && opcode <= WASM_OP_I64_STORE32)
        return skip_leb(skip_leb(p));
    return p;
}

/*
 * The longest way through a function on which no check lies, in instructions. Without a check, code
 * runs forward only: what is behind an `if` follows the longer of its arms.
 */
struct way {
    uint32 now;
    uint32 longest;
    /* Open `if`s: the way at its beginning, and, from `else` on, that at the first arm's end. */
    uint32 ifs[IFS_KNOWN];
    uint32 arms[IFS_KNOWN];
    /* The nesting at which each was opened. */
    uint32 at[IFS_KNOWN];
    uint32 open;
    uint32 depth;
};

static bool
is_check(uint8 opcode)
{
    switch (opcode) {
        case WASM_OP_BR:
        case WASM_OP_BR_IF:
        case WASM_OP_BR_TABLE:
        case EXT_OP_BR_TABLE_CACHE:
        case WASM_OP_CALL:
        case WASM_OP_CALL_INDIRECT:
            return true;
        default:
            return false;
    }
}

static bool
is_block(uint8 opcode)
{
    switch (opcode) {
        case WASM_OP_BLOCK:
        case WASM_OP_LOOP:
        case WASM_OP_IF:
        case EXT_OP_BLOCK:
        case EXT_OP_LOOP:
        case EXT_OP_IF:
            return true;
        default:
            return false;
    }
}

/* The `if` that the nesting is in directly, if it is known. */
static bool
in_if(const struct way *way)
{
    return way->open && way->open <= IFS_KNOWN && way->at[way->open - 1] == way->depth;
}

static void
open_block(struct way *way, uint8 opcode)
{
    way->depth++;
    if (opcode != WASM_OP_IF && opcode != EXT_OP_IF)
        return;
    if (way->open < IFS_KNOWN) {
        way->ifs[way->open] = way->now;
        way->arms[way->open] = way->now;
        way->at[way->open] = way->depth;
        way->open++;
    }
}

static void
close_block(struct way *way)
{
    if (in_if(way)) {
        uint32 other = way->arms[--way->open];

        way->now = other > way->now ? other : way->now;
    }
    way->depth--;
}

static void
take(struct way *way, uint8 opcode)
{
    way->now++;
    if (way->now > way->longest)
        way->longest = way->now;
    if (is_block(opcode))
        open_block(way, opcode);
    else if (opcode == WASM_OP_END)
        close_block(way);
    else if (opcode == WASM_OP_ELSE && in_if(way)) {
        way->arms[way->open - 1] = way->now;
        way->now = way->ifs[way->open - 1];
    }
    /* In arms that are not told apart a check may be passed by. */
    else if (is_check(opcode) && way->open < IFS_KNOWN)
        way->now = 0;
}

static uint32
longest_way(const WASMFunction *function)
{
    const uint8 *p = function->code, *end = p + function->code_size;
    struct way way;

    way.open = way.depth = 0;
    way.now = way.longest =
        ((uint32)function->param_cell_num + function->local_cell_num) / CELLS_INSTRUCTION;
    while (p < end) {
        uint8 opcode = *p++;

        p = skip_immediates(opcode, p);
        take(&way, opcode);
    }
    return way.longest;
}

uint32
wamr_credit_per_unit(const WASMModule *module)
{
    uint32 longest = 0, i;

    for (i = 0; i < module->function_count; i++) {
        uint32 way = longest_way(module->functions[i]);

        longest = way > longest ? way : longest;
    }
    return longest / UNIT_INSTRUCTIONS + 1;
}

/* The deepest path of calls. */

/* A function: on the way down, where its code is read on and what lies above its frame at most; at
   its end, `next` is one of the two below, and `above` the whole of it, its own frame included. */
struct visit {
    const uint8 *next;
    uint32 above;
    uint32 caller;
};

static const uint8 known[1], unknown[1];

/* Instead of a function's index. */
enum { NO_FUNCTION = UINT32_MAX };

struct search {
    const WASMModule *module;
    struct visit *visits;
    /* Bytes that a call left in a bulk operation keeps beside its frames. */
    uint32 bulk_bytes;
};

static uint32
frame_size(const WASMFunction *function)
{
    uint32 cells = (uint32)function->param_cell_num + function->local_cell_num
                   + function->max_stack_cell_num
                   + function->max_block_num * (uint32)sizeof(WASMBranchBlock) / 4;

    return wasm_interp_interp_frame_size(cells);
}

static void
at_least(uint32 *most, uint32 value)
{
    if (value > *most)
        *most = value;
}

/* Bytes kept beside the frames while a call of an imported function waits. */
static uint32
import_bytes(const WASMModule *module, uint32 index)
{
    uint32 params = module->import_functions[index].u.function.func_type->param_count;

    return (params ? params : 1) * (uint32)sizeof(uint64);
}

/* Reads a function's code on, up to a call within the module. False where it calls indirectly. */
static bool
read_to_call(struct search *search, uint32 index, uint32 *callee)
{
    const WASMModule *module = search->module;
    const WASMFunction *function = module->functions[index];
    struct visit *visit = &search->visits[index];
    const uint8 *p = visit->next, *end = function->code + function->code_size;

    while (p < end) {
        uint8 opcode = *p++;
        const uint8 *immediates = p;

        p = skip_immediates(opcode, p);
        if (opcode == WASM_OP_CALL_INDIRECT)
            return false;
        if (opcode == WASM_OP_MEMORY_GROW || opcode == WASM_OP_MISC_PREFIX)
            at_least(&visit->above, search->bulk_bytes);
        if (opcode != WASM_OP_CALL)
            continue;
        (void)read_u32(immediates, callee);
        if (*callee >= module->import_function_count) {
            *callee -= module->import_function_count;
            visit->next = p;
            return true;
        }
        at_least(&visit->above, import_bytes(module, *callee));
    }
    *callee = NO_FUNCTION;
    return true;
}

static void
go_down(struct search *search, uint32 index, uint32 caller)
{
    search->visits[index] = (struct visit){
        .next = search->module->functions[index]->code,
        .caller = caller,
    };
}

/* All functions on the way reach what can't be known. */
static void
give_up(struct search *search, uint32 index)
{
    while (index != NO_FUNCTION) {
        search->visits[index].next = unknown;
        index = search->visits[index].caller;
    }
}

/* Ends a function, and returns its caller. */
static uint32
go_up(struct search *search, uint32 index)
{
    struct visit *visit = &search->visits[index];

    visit->above += frame_size(search->module->functions[index]);
    visit->next = known;
    if (visit->caller != NO_FUNCTION)
        at_least(&search->visits[visit->caller].above, visit->above);
    return visit->caller;
}

/* Follows all calls from a function. Each function's code is read once, whatever calls it. */
static void
follow(struct search *search, uint32 index)
{
    if (!search->visits[index].next)
        go_down(search, index, NO_FUNCTION);
    while (index != NO_FUNCTION && search->visits[index].next != known
           && search->visits[index].next != unknown) {
        uint32 callee;
        const struct visit *visit;

        if (!read_to_call(search, index, &callee)) {
            give_up(search, index);
            return;
        }
        if (callee == NO_FUNCTION) {
            index = go_up(search, index);
            continue;
        }
        visit = &search->visits[callee];
        if (!visit->next) {
            go_down(search, callee, index);
            index = callee;
        }
        else if (visit->next == known) {
            at_least(&search->visits[index].above, visit->above);
        }
        else {
            /* Not to be known, or on the way already: a recursion. */
            give_up(search, index);
            return;
        }
    }
}

/* The bytes that a call of function `index` can have on the stack, its first frame not counted; of
   its own frame alone where more is not known. */
static uint32
need_of(struct search *search, uint32 index)
{
    const WASMModule *module = search->module;

    if (index < module->import_function_count)
        return import_bytes(module, index);
    index -= module->import_function_count;
    if (!search->visits)
        return frame_size(module->functions[index]);
    follow(search, index);
    return search->visits[index].next == known ? search->visits[index].above
                                               : frame_size(module->functions[index]);
}

uint32
wamr_stack_need(const WASMModule *module, const uint32 *initialisers, uint32 initialiser_count,
                uint32 bulk_bytes)
{
    struct search search = { .module = module, .bulk_bytes = bulk_bytes };
    uint32 size = module->function_count * (uint32)sizeof(struct visit), need = 0, i;

    search.visits = size ? wamr_alloc(size) : NULL;
    if (search.visits)
        memset(search.visits, 0, size);
    for (i = 0; i < initialiser_count; i++) {
        if (initialisers[i] != WAMR_NO_FUNCTION)
            at_least(&need, need_of(&search, initialisers[i]));
    }
    for (i = 0; i < module->export_count; i++) {
        if (module->exports[i].kind == EXPORT_KIND_FUNC)
            at_least(&need, need_of(&search, module->exports[i].index));
    }
    wamr_free(search.visits);
    return need;
}
