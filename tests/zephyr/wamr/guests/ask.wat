;; main(n): what the host says to n, plus 1; the host takes its time.
(module
  (import "host" "ask" (func $ask (param i32) (result i32)))
  (func (export "main") (param i32) (result i32)
    (i32.add (call $ask (local.get 0)) (i32.const 1))))
