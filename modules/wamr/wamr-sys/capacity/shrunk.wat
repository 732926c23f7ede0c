;; What clang and wasm-ld --stack-first make of a small C program that counts main's calls in a
;; static variable, with 1 KiB of stack: WAMR shrinks its two pages to __heap_base, 1,040 bytes.
(module
  (memory (export "memory") 2)
  (global $__stack_pointer (mut i32) (i32.const 1024))
  (global (export "__data_end") i32 (i32.const 1036))
  (global (export "__heap_base") i32 (i32.const 1040))
  (data (i32.const 1024) "\01\00\00\00\02\00\00\00\00\00\00\00")
  (func $add_to (param $counter i32) (param $step i32)
    (i32.store (local.get $counter)
      (i32.add (i32.load (local.get $counter)) (i32.load (local.get $step)))))
  (func (export "main") (result i32) (local $frame i32)
    (global.set $__stack_pointer
      (local.tee $frame (i32.sub (global.get $__stack_pointer) (i32.const 16))))
    (i32.store offset=12 (local.get $frame) (i32.load offset=1024 (i32.const 0)))
    (call $add_to (i32.const 1032) (i32.add (local.get $frame) (i32.const 12)))
    (global.set $__stack_pointer (i32.add (local.get $frame) (i32.const 16)))
    (i32.load offset=1032 (i32.const 0))))
