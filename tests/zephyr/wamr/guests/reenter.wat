;; main(): calls the host, which calls malloc here, which calls the host, and so on.
(module
  (import "host" "reenter" (func $reenter (param i32) (result i32)))
  (memory 1 1)
  (func $malloc (export "malloc") (param i32) (result i32) (call $reenter (local.get 0)))
  (func (export "free") (param i32))
  (func (export "main") (result i32) (call $malloc (i32.const 8))))
