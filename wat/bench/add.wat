;; main(): the sum of 0..50,000, one addition a turn: 1,249,975,000.
(module
  (func (export "main") (result i32) (local $i i32) (local $sum i32)
    (loop $next
      (local.set $sum (i32.add (local.get $sum) (local.get $i)))
      (br_if $next (i32.lt_u
        (local.tee $i (i32.add (local.get $i) (i32.const 1))) (i32.const 50000))))
    (local.get $sum)))
