;; main(): the sum of 500 times fib(30), each in 30 additions: 416,020,000.
(module
  (func $fib (param $n i32) (result i32) (local $a i32) (local $b i32) (local $next i32)
    (local.set $b (i32.const 1))
    (loop $step
      (local.set $next (i32.add (local.get $a) (local.get $b)))
      (local.set $a (local.get $b))
      (local.set $b (local.get $next))
      (br_if $step (local.tee $n (i32.sub (local.get $n) (i32.const 1)))))
    (local.get $a))
  (func (export "main") (result i32) (local $i i32) (local $sum i32)
    (loop $next
      (local.set $sum (i32.add (local.get $sum) (call $fib (i32.const 30))))
      (br_if $next (i32.lt_u
        (local.tee $i (i32.add (local.get $i) (i32.const 1))) (i32.const 500))))
    (local.get $sum)))
