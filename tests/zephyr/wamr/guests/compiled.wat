;; What clang makes of a small program, with what WAMR would shrink its memory by.
(module
  (memory (export "memory") 2)
  (global $sp (mut i32) (i32.const 1024))
  (global (export "__data_end") i32 (i32.const 1024))
  (global (export "__heap_base") i32 (i32.const 1280))
  (func (export "store") (param i32 i32) (i32.store8 (local.get 0) (local.get 1)))
  (func (export "fill") (param i32 i32 i32)
    (memory.fill (local.get 0) (local.get 1) (local.get 2)))
  (func (export "use_sp") (result i32) (global.set $sp (i32.const 1000)) (global.get $sp)))
