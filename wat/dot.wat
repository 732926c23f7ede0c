;; run(length, rounds): the dot product of two f64 vectors, `rounds` times: loads, arithmetic, one
;; branch an element. Returns the last product, truncated.
;; A at 0, B at 32768: with 4,096 elements, the most, they fill the page; with more it traps at its
;; end. A length of 0 and rounds below 1 count as 1.
(module
  (memory 1 1)
  ;; A = 1, 2, 3, …; B = 1, 2, … 8, 1, 2, …
  (func $fill (param $length i32) (local $i i32)
    (loop $next
      (f64.store (i32.shl (local.get $i) (i32.const 3))
        (f64.convert_i32_u (i32.add (local.get $i) (i32.const 1))))
      (f64.store offset=32768 (i32.shl (local.get $i) (i32.const 3))
        (f64.convert_i32_u (i32.add (i32.and (local.get $i) (i32.const 7)) (i32.const 1))))
      (br_if $next (i32.lt_u
        (local.tee $i (i32.add (local.get $i) (i32.const 1))) (local.get $length)))))
  (func $dot (param $end i32) (result f64) (local $at i32) (local $sum f64)
    (loop $next
      (local.set $sum (f64.add (local.get $sum)
        (f64.mul (f64.load (local.get $at)) (f64.load offset=32768 (local.get $at)))))
      (br_if $next (i32.lt_u
        (local.tee $at (i32.add (local.get $at) (i32.const 8))) (local.get $end))))
    (local.get $sum))
  (func (export "run") (param $length i32) (param $rounds i32) (result i32) (local $last f64)
    (call $fill (local.get $length))
    (loop $next
      (local.set $last (call $dot (i32.shl (local.get $length) (i32.const 3))))
      (br_if $next (i32.gt_s
        (local.tee $rounds (i32.sub (local.get $rounds) (i32.const 1))) (i32.const 0))))
    (i32.trunc_f64_s (local.get $last))))
