;; main(): calls itself until the operand stack is full.
(module
  (func $main (export "main") (call $main)))
