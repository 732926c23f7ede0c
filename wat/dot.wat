;; The dot product of two f64 vectors of 1,024 elements, $n times: loads, arithmetic, one branch an
;; element. Returns the last product, truncated.
(module
  (memory 1 1)
  (func $fill (local $i i32)
    (loop $next
      (f64.store (i32.shl (local.get $i) (i32.const 3))
        (f64.convert_i32_u (local.get $i)))
      (f64.store offset=8192 (i32.shl (local.get $i) (i32.const 3))
        (f64.const 0.5))
      (br_if $next (i32.lt_u
        (local.tee $i (i32.add (local.get $i) (i32.const 1))) (i32.const 1024)))))
  (func $dot (result f64) (local $at i32) (local $sum f64)
    (loop $next
      (local.set $sum (f64.add (local.get $sum)
        (f64.mul (f64.load (local.get $at)) (f64.load offset=8192 (local.get $at)))))
      (br_if $next (i32.lt_u
        (local.tee $at (i32.add (local.get $at) (i32.const 8))) (i32.const 8192))))
    (local.get $sum))
  (func (export "run") (param $n i32) (result i32) (local $last f64)
    (call $fill)
    (loop $next
      (local.set $last (call $dot))
      (br_if $next (local.tee $n (i32.sub (local.get $n) (i32.const 1)))))
    (i32.trunc_f64_s (local.get $last))))
