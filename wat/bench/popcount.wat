;; main(): the bits that are set in all of 0..50,000, counted by Kernighan's way, which takes a turn
;; for each of them: 382,512 in all.
(module
  (func $count (param $bits i32) (result i32) (local $count i32)
    (block $done
      (loop $next
        (br_if $done (i32.eqz (local.get $bits)))
        (local.set $bits (i32.and (local.get $bits) (i32.sub (local.get $bits) (i32.const 1))))
        (local.set $count (i32.add (local.get $count) (i32.const 1)))
        (br $next)))
    (local.get $count))
  (func (export "main") (result i32) (local $i i32) (local $sum i32)
    (loop $next
      (local.set $sum (i32.add (local.get $sum) (call $count (local.get $i))))
      (br_if $next (i32.lt_u
        (local.tee $i (i32.add (local.get $i) (i32.const 1))) (i32.const 50000))))
    (local.get $sum)))
