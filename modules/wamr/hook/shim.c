/*
 * SPDX-License-Identifier: Apache-2.0
 */

#include "shim.h"
#include "analysis.h"
#include "arena.h"
#include "pages.h"
#include "worker.h"

#include "bh_log.h"
#include "wasm_runtime.h"
#include "wasm_runtime_common.h"

static bool started;

/* Over the start, over instantiation, and over every module's tables. */
#if defined(OS_THREAD_MUTEX_INITIALIZER)
static korp_mutex lock = OS_THREAD_MUTEX_INITIALIZER;
#else
static K_MUTEX_DEFINE(lock);
#endif

void
wamr_discard_log(uint32 level, const char *file, int line, const char *fmt, ...)
{
    (void)level;
    (void)file;
    (void)line;
    (void)fmt;
}

/*
 * Symbols that WAMR refers to for host functions that take native arguments, and for its C API.
 * All of ours take the raw array, so that no architecture's assembly and no C API is needed.
 */
void
invokeNative(void);

void
invokeNative(void)
{
    abort();
}

struct wasm_trap_t;
void
wasm_trap_delete(struct wasm_trap_t *trap);

void
wasm_trap_delete(struct wasm_trap_t *trap)
{
    (void)trap;
    abort();
}

static uint32_t
start(void *arena, uint32_t arena_len)
{
    RuntimeInitArgs args;

    if (!wamr_arena_init(arena, arena_len))
        return WAMR_INIT_NO_ROOM;
    memset(&args, 0, sizeof(args));
    args.mem_alloc_type = Alloc_With_Allocator;
    args.mem_alloc_option.allocator.malloc_func = (void *)wamr_arena_malloc;
    args.mem_alloc_option.allocator.realloc_func = (void *)wamr_arena_realloc;
    args.mem_alloc_option.allocator.free_func = (void *)wamr_arena_free;
    args.running_mode = Mode_Interp;
    started = wasm_runtime_full_init(&args);
    return started ? WAMR_INIT_OK : WAMR_INIT_NO_ROOM;
}

uint32_t
wamr_init(void *arena, uint32_t arena_len)
{
    uint32_t result;

    os_mutex_lock(&lock);
    result = started ? WAMR_INIT_AGAIN : start(arena, arena_len);
    os_mutex_unlock(&lock);
    return result;
}

bool
wamr_register(const char *module_name, NativeSymbol *symbols, uint32_t count)
{
    return wasm_runtime_register_natives_raw(module_name, symbols, count);
}

/* Bytes of a name that a text shows: two of them fit any. */
#define NAME_BYTES 50

static bool
is_inside_character(char byte)
{
    return ((uint8)byte & 0xc0) == 0x80;
}

/* A name, UTF-8, as a text shows it: a long one without its middle, in `shortened`. */
static const char *
shown(const char *name, char shortened[NAME_BYTES + 1])
{
    static const char gap[3] = { '.', '.', '.' };
    size_t half = (NAME_BYTES - sizeof(gap)) / 2, len = strlen(name);
    size_t end = half, rest = len - half;

    if (len <= NAME_BYTES)
        return name;
    while (end > 0 && is_inside_character(name[end]))
        end--;
    while (is_inside_character(name[rest]))
        rest++;
    memcpy(shortened, name, end);
    memcpy(shortened + end, gap, sizeof(gap));
    memcpy(shortened + end + sizeof(gap), name + rest, len - rest + 1);
    return shortened;
}

static bool
unknown_import(char *error, uint32_t error_len, const char *kind, const WASMImport *import)
{
    char module[NAME_BYTES + 1], field[NAME_BYTES + 1];

    snprintf(error, error_len, "unknown import %s.%s (%s)",
             shown(import->u.names.module_name, module),
             shown(import->u.names.field_name, field), kind);
    return false;
}

static bool
mistyped_import(char *error, uint32_t error_len, const WASMFunctionImport *import)
{
    char module[NAME_BYTES + 1], field[NAME_BYTES + 1];

    snprintf(error, error_len, "import %s.%s (function) has another type than the host's",
             shown(import->module_name, module), shown(import->field_name, field));
    return false;
}

/*
 * WAMR's check of a signature stops after the first result, and its raw call writes only one: a
 * function imported with more would read past its operands.
 */
static bool
function_import_fits(const WASMFunctionImport *import)
{
    return import->func_ptr_linked && import->func_type->result_count <= 1;
}

static bool
imports_known(const WASMModule *module, char *error, uint32_t error_len)
{
    uint32 i;

    for (i = 0; i < module->import_function_count; i++) {
        const WASMFunctionImport *import = &module->import_functions[i].u.function;

        if (function_import_fits(import))
            continue;
        if (!wasm_native_resolve_symbol(import->module_name, import->field_name, NULL, NULL, NULL,
                                        NULL))
            return unknown_import(error, error_len, "function", &module->import_functions[i]);
        return mistyped_import(error, error_len, import);
    }
    if (module->import_memory_count)
        return unknown_import(error, error_len, "memory", &module->import_memories[0]);
    if (module->import_table_count)
        return unknown_import(error, error_len, "table", &module->import_tables[0]);
    if (module->import_global_count)
        return unknown_import(error, error_len, "global", &module->import_globals[0]);
    return true;
}

static const WASMFuncType *
type_of(const WASMModule *module, uint32 index)
{
    return index < module->import_function_count
               ? module->import_functions[index].u.function.func_type
               : module->functions[index - module->import_function_count]->func_type;
}

static uint32
exported_functions(const WASMModule *module)
{
    uint32 i, count = 0;

    for (i = 0; i < module->export_count; i++)
        count += module->exports[i].kind == EXPORT_KIND_FUNC;
    return count;
}

static WASMExport *
find_export(const WASMModule *module, const char *name, uint32 name_len)
{
    uint32 i;

    for (i = 0; i < module->export_count; i++) {
        WASMExport *export = &module->exports[i];

        if (export->kind == EXPORT_KIND_FUNC && strlen(export->name) == name_len
            && !memcmp(export->name, name, name_len))
            return export;
    }
    return NULL;
}

/* A function without parameters and results, exported by this name. */
static WASMExport *
find_initialiser(const WASMModule *module, const char *name)
{
    WASMExport *export = find_export(module, name, (uint32)strlen(name));
    const WASMFuncType *type = export ? type_of(module, export->index) : NULL;

    return type && !type->param_count && !type->result_count ? export : NULL;
}

/*
 * Instantiation calls the start function and two exports that it knows by name, where the slice
 * hook has no run to ask for. They are noted and hidden, for the crate to call.
 */
static void
take_initialisers(WASMModule *module, wamr_module_info *info)
{
    WASMExport *initialize = find_initialiser(module, "_initialize");
    WASMExport *ctors = find_initialiser(module, "__wasm_call_ctors");
    WASMExport *post = find_initialiser(module, "__post_instantiate");

    info->start = module->start_function;
    module->start_function = (uint32)-1;
    info->constructors = WAMR_NO_FUNCTION;
    if (ctors) {
        info->constructors = ctors->index;
        ctors->name = "";
    }
    if (initialize)
        info->constructors = initialize->index;
    info->post_instantiate = WAMR_NO_FUNCTION;
    if (post) {
        info->post_instantiate = post->index;
        post->name = "";
    }
}

static uint32
stack_need(const WASMModule *module, const wamr_module_info *info)
{
    const uint32 initialisers[] = { info->start, info->constructors, info->post_instantiate };

    return wamr_stack_need(module, initialisers, 3, sizeof(struct bulk));
}

/* WAMR makes one large page of a memory that its module can neither grow nor ask the size of. */
static void
restore_memory(WASMModule *module)
{
    WASMMemory *memory = module->memories;

    if (!module->memory_count || memory->num_bytes_per_page == DEFAULT_NUM_BYTES_PER_PAGE)
        return;
    memory->init_page_count = memory->num_bytes_per_page / DEFAULT_NUM_BYTES_PER_PAGE;
    memory->max_page_count = memory->init_page_count;
    memory->num_bytes_per_page = DEFAULT_NUM_BYTES_PER_PAGE;
}

struct WASMModule *
wamr_load(uint8_t *wasm, uint32_t wasm_len, wamr_module_info *info, char *error,
          uint32_t error_len)
{
    WASMModule *module;

    memset(info, 0, sizeof(*info));
    module = (WASMModule *)wasm_runtime_load(wasm, wasm_len, error, error_len);
    if (!module)
        return NULL;
    if (!imports_known(module, error, error_len)) {
        wamr_unload(module);
        return NULL;
    }
    take_initialisers(module, info);
    restore_memory(module);
    info->stack_need = stack_need(module, info);
    info->credit_per_unit = wamr_credit_per_unit(module);
    info->imports = module->import_function_count;
    info->memories = module->memory_count;
    if (module->memory_count) {
        info->initial_pages = module->memories[0].init_page_count;
        info->maximum_pages = module->memories[0].max_page_count;
    }
    return module;
}

void
wamr_unload(struct WASMModule *module)
{
    /* Workers forget where this module's blocks end before they run another's code at the same
       addresses: whoever has its bytes next has got them from the arena after this. */
    os_mutex_lock(&lock);
    __atomic_store_n(&wamr_unloads, wamr_unloads + 1, __ATOMIC_RELAXED);
    os_mutex_unlock(&lock);
    wasm_runtime_unload((WASMModuleCommon *)module);
}

uint32_t
wamr_find_function(const struct WASMModule *module, const char *name, uint32_t name_len,
                   wamr_function_type *type)
{
    const WASMExport *export = find_export(module, name, name_len);
    const WASMFuncType *func_type;

    if (!export)
        return WAMR_NO_FUNCTION;
    func_type = type_of(module, export->index);
    type->types = func_type->types;
    type->params = func_type->param_count;
    type->results = func_type->result_count;
    return export->index;
}

void
wamr_get_sizes(wamr_sizes *sizes)
{
    *sizes = (wamr_sizes){
        .pointer = sizeof(void *),
        .module = sizeof(WASMModule),
        .function_type = offsetof(WASMFuncType, types),
        .import = sizeof(WASMImport),
        .function = sizeof(WASMFunction),
        .table = sizeof(WASMTable),
        .memory = sizeof(WASMMemory),
        .global = sizeof(WASMGlobal),
        .export = sizeof(WASMExport),
        .element_segment = sizeof(WASMTableSeg),
        .element = sizeof(InitializerExpression),
        .data_segment = sizeof(WASMDataSeg),
        .instance = offsetof(WASMModuleInstance, global_table_data.bytes),
        .instance_extra = sizeof(WASMModuleInstanceExtra),
        .memory_instance = sizeof(WASMMemoryInstance),
        .table_instance = offsetof(WASMTableInstance, elems),
        .table_slot = sizeof(table_elem_type_t),
        .table_slots_default = WASM_TABLE_MAX_SIZE,
        .bitmap = offsetof(bh_bitmap, map),
        .global_instance = sizeof(WASMGlobalInstance),
        .function_instance = sizeof(WASMFunctionInstance),
        .export_function = sizeof(WASMExportFuncInstance),
        .small_page = PROPLET_PAGE_BYTES,
    };
}

static uint32
tables_len(const WASMModule *module)
{
    uint32 i, len = 0;

    for (i = 0; i < module->table_count; i++) {
        const WASMTableType *type = &module->tables[i].table_type;
        uint32 slots = type->possible_grow ? type->max_size : type->init_size;

        len += (uint32)(offsetof(WASMTableInstance, elems) + slots * sizeof(table_elem_type_t));
    }
    return len;
}

static uint32
bitmap_bytes(uint32 bits)
{
    return bits ? wamr_bytes_for((uint32)offsetof(bh_bitmap, map) + (bits + 7) / 8) : 0;
}

/* Follows wasm_instantiate, allocation by allocation. */
uint32_t
wamr_instance_needs(const struct WASMModule *module)
{
    uint32 body;

    body = (uint32)offsetof(WASMModuleInstance, global_table_data.bytes)
           + (uint32)sizeof(WASMMemoryInstance) * module->memory_count + module->global_data_size
           + tables_len(module);
    body = ((body + 7) & ~7u) + (uint32)sizeof(WASMModuleInstanceExtra);
    return wamr_bytes_for(body) + bitmap_bytes(module->data_seg_count)
           + bitmap_bytes(module->table_seg_count)
           + wamr_bytes_for(module->memory_count * (uint32)sizeof(void *))
           + wamr_bytes_for(module->table_count * (uint32)sizeof(void *));
}

void
wamr_memory_needs(const struct WASMModule *module, wamr_memory_need *need)
{
#if PAGED
    wamr_pages_need(module, need);
#else
    uint64 bytes = 0;

    if (module->memory_count)
        bytes = (uint64)module->memories[0].num_bytes_per_page
                * module->memories[0].init_page_count;
    need->made = bytes <= UINT32_MAX ? wamr_bytes_for((uint32)bytes) : UINT32_MAX;
    need->committed = need->made;
#endif
}

uint32_t
wamr_copy_needs(const struct WASMModule *module)
{
    return wamr_bytes_for(module->global_count * (uint32)sizeof(WASMGlobalInstance));
}

uint32_t
wamr_tables_need(const struct WASMModule *module)
{
    uint32 functions = module->import_function_count + module->function_count;

    return wamr_bytes_for(functions * (uint32)sizeof(WASMFunctionInstance))
           + wamr_bytes_for(module->import_function_count * (uint32)sizeof(void *))
           + wamr_bytes_for(exported_functions(module) * (uint32)sizeof(WASMExportFuncInstance))
           + wamr_copy_needs(module);
}

/*
 * The module as wasm_instantiate sees it, under the lock: the parts that other instances have made
 * already are hidden, so that it makes none, and so is what is done here: a paged memory and its data
 * segments. The start function and its like are hidden since the module was loaded. A flat memory's growth
 * is bounded.
 */
static WASMModule *
as_instantiated(const WASMModule *module, const wamr_tables *tables, uint64 memory_max)
{
    static WASMModule view;
    static WASMMemory memory;

    view = *module;
    if (module->memory_count) {
        memory = module->memories[0];
        view.memories = &memory;
#if PAGED
        (void)memory_max;
        memory.init_page_count = 0;
        view.data_seg_count = 0;
#else
        memory_max /= memory.num_bytes_per_page;
        if (memory_max < memory.max_page_count)
            memory.max_page_count = (uint32)memory_max;
#endif
    }
    if (tables->users) {
        view.import_function_count = view.function_count = view.export_count = 0;
        view.malloc_function = view.free_function = view.retain_function = (uint32)-1;
    }
    return &view;
}

/* The block becomes the module's: no instance's account has it. */
static void *
as_shared(void *block)
{
    wamr_unbook(block);
    return block;
}

static void
share(const WASMModuleInstance *instance, wamr_tables *tables)
{
    tables->functions = as_shared(instance->e->functions);
    tables->imports = as_shared(instance->import_func_ptrs);
    tables->exports = as_shared(instance->export_functions);
    tables->globals = as_shared(instance->e->globals);
}

static WASMFunctionInstance *
function_of(const WASMModuleInstance *instance, uint32 index)
{
    return index == (uint32)-1 ? NULL : instance->e->functions + index;
}

/* Gives an instance that was made without tables the others'. */
static void
take_shared(WASMModuleInstance *instance, const WASMModule *module, const wamr_tables *tables)
{
    wamr_free(instance->e->globals);
    instance->e->functions = tables->functions;
    instance->import_func_ptrs = tables->imports;
    instance->export_functions = tables->exports;
    instance->e->globals = tables->globals;
    instance->e->function_count = module->import_function_count + module->function_count;
    instance->export_func_count = exported_functions(module);
    instance->e->malloc_function = function_of(instance, module->malloc_function);
    instance->e->free_function = function_of(instance, module->free_function);
    instance->e->retain_function = function_of(instance, module->retain_function);
}

static void
free_tables(wamr_tables *tables)
{
    wamr_account *account = wamr_account_swap(NULL);

    wamr_free(tables->functions);
    wamr_free(tables->imports);
    wamr_free(tables->exports);
    wamr_free(tables->globals);
    (void)wamr_account_swap(account);
    memset(tables, 0, sizeof(*tables));
}

static WASMModuleInstance *
instantiate(WASMModule *module, wamr_tables *tables, uint64 memory_max, char *error,
            uint32_t error_len)
{
    InstantiationArgs args;
    WASMModuleInstance *instance;
    WASMModule *view;

    memset(&args, 0, sizeof(args));
    os_mutex_lock(&lock);
    view = as_instantiated(module, tables, memory_max);
    instance = (WASMModuleInstance *)wasm_runtime_instantiate_ex((WASMModuleCommon *)view, &args,
                                                                 error, error_len);
    if (instance) {
        instance->module = module;
        if (tables->users)
            take_shared(instance, module, tables);
        else
            share(instance, tables);
        tables->users++;
    }
    os_mutex_unlock(&lock);
    return instance;
}

#if PAGED

struct WASMModuleInstance *
wamr_instantiate(struct WASMModule *module, wamr_tables *tables, uint64_t memory_max, bool commit,
                 char *error, uint32_t error_len)
{
    WASMModuleInstance *instance = instantiate(module, tables, memory_max, error, error_len);

    if (!instance || !instance->memory_count
        || wamr_pages_make(instance, memory_max, commit, error, error_len))
        return instance;
    wamr_deinstantiate(instance, tables);
    return NULL;
}

#else

struct WASMModuleInstance *
wamr_instantiate(struct WASMModule *module, wamr_tables *tables, uint64_t memory_max, bool commit,
                 char *error, uint32_t error_len)
{
    const WASMMemory *memory = module->memories;

    (void)commit;
    if (module->memory_count
        && (uint64)memory->init_page_count * memory->num_bytes_per_page > memory_max) {
        snprintf(error, error_len, "out of memory: %lu pages of linear memory, of at most %lu",
                 (unsigned long)memory->init_page_count,
                 (unsigned long)(memory_max / memory->num_bytes_per_page));
        return NULL;
    }
    return instantiate(module, tables, memory_max, error, error_len);
}

#endif

void
wamr_deinstantiate(struct WASMModuleInstance *instance, wamr_tables *tables)
{
#if PAGED
    wamr_pages_free(instance);
#endif
    /* They stay the module's. */
    instance->e->functions = NULL;
    instance->import_func_ptrs = NULL;
    instance->export_functions = NULL;
    instance->e->globals = NULL;
    wasm_runtime_deinstantiate((WASMModuleInstanceCommon *)instance);
    os_mutex_lock(&lock);
    if (--tables->users == 0)
        free_tables(tables);
    os_mutex_unlock(&lock);
}

const char *
wamr_exception(struct WASMModuleInstance *instance)
{
    return wasm_runtime_get_exception((WASMModuleInstanceCommon *)instance);
}

void
wamr_throw(struct WASMModuleInstance *instance, const char *text)
{
    wasm_runtime_set_exception((WASMModuleInstanceCommon *)instance, text);
}

struct WASMModuleInstance *
wamr_instance_of(struct WASMExecEnv *exec_env)
{
    return (WASMModuleInstance *)exec_env->module_inst;
}

bool
wamr_guest_check(struct WASMModuleInstance *instance, uint32_t offset, uint32_t len)
{
    return wasm_runtime_validate_app_addr((WASMModuleInstanceCommon *)instance, offset, len);
}

#if PAGED

bool
wamr_guest_read(struct WASMModuleInstance *instance, uint32_t offset, uint8_t *to, uint32_t len)
{
    if (!wamr_guest_check(instance, offset, len))
        return false;
    wamr_pages_read(instance, offset, to, len);
    return true;
}

/* Takes the absent pages of what is to be written. */
static bool
touch(WASMModuleInstance *instance, uint32 offset, uint32 len)
{
    uint64 at = offset & ~(SMALL_PAGE - 1);

    for (; at < (uint64)offset + len; at += SMALL_PAGE)
        if (!wamr_pages_touch(instance, (uint32)at))
            return false;
    return true;
}

bool
wamr_guest_write(struct WASMExecEnv *env, uint32_t offset, const uint8_t *from, uint32_t len)
{
    WASMModuleInstance *instance = (WASMModuleInstance *)env->module_inst;
    uint32 before;
    bool room;

    if (!wamr_guest_check(instance, offset, len))
        return false;
    if (!len)
        return true;
    before = pages_of(instance->memories[0])->count;
    room = touch(instance, offset, len);
    wamr_charge_touches(worker_of(env), before);
    return room && wamr_pages_write(instance, offset, from, len);
}

#else

bool
wamr_guest_read(struct WASMModuleInstance *instance, uint32_t offset, uint8_t *to, uint32_t len)
{
    if (!wamr_guest_check(instance, offset, len))
        return false;
    memcpy(to, instance->memories[0]->memory_data + offset, len);
    return true;
}

bool
wamr_guest_write(struct WASMExecEnv *env, uint32_t offset, const uint8_t *from, uint32_t len)
{
    WASMModuleInstance *instance = (WASMModuleInstance *)env->module_inst;

    if (!wamr_guest_check(instance, offset, len))
        return false;
    memcpy(instance->memories[0]->memory_data + offset, from, len);
    return true;
}

#endif

uint64_t
wamr_guest_memory_len(struct WASMModuleInstance *instance)
{
    WASMMemoryInstance *memory = wasm_get_default_memory(instance);

    return memory ? memory->memory_data_size : 0;
}

uint32_t
wamr_guest_pages(struct WASMModuleInstance *instance)
{
#if PAGED
    return instance->memory_count ? pages_of(instance->memories[0])->count : 0;
#else
    (void)instance;
    return 0;
#endif
}
