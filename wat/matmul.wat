;; The product of two f64 matrices of 64 by 64, $n times. Returns an element of it, truncated.
;; A at 0, B at 32768, row by row; C's elements are summed and not kept: one page holds both.
(module
  (memory 1 1)
  (func $fill (local $i i32)
    (loop $next
      (f64.store (i32.shl (local.get $i) (i32.const 3))
        (f64.convert_i32_u (i32.and (local.get $i) (i32.const 7))))
      (f64.store offset=32768 (i32.shl (local.get $i) (i32.const 3))
        (f64.convert_i32_u (i32.and (local.get $i) (i32.const 3))))
      (br_if $next (i32.lt_u
        (local.tee $i (i32.add (local.get $i) (i32.const 1))) (i32.const 4096)))))
  (func $multiply (result f64)
    (local $row i32) (local $column i32) (local $k i32) (local $sum f64) (local $trace f64)
    (loop $rows
      (local.set $column (i32.const 0))
      (loop $columns
        (local.set $sum (f64.const 0))
        (local.set $k (i32.const 0))
        (loop $inner
          (local.set $sum (f64.add (local.get $sum)
            (f64.mul
              (f64.load (i32.shl
                (i32.add (i32.shl (local.get $row) (i32.const 6)) (local.get $k))
                (i32.const 3)))
              (f64.load offset=32768 (i32.shl
                (i32.add (i32.shl (local.get $k) (i32.const 6)) (local.get $column))
                (i32.const 3))))))
          (br_if $inner (i32.lt_u
            (local.tee $k (i32.add (local.get $k) (i32.const 1))) (i32.const 64))))
        (if (i32.eq (local.get $row) (local.get $column))
          (then (local.set $trace (f64.add (local.get $trace) (local.get $sum)))))
        (br_if $columns (i32.lt_u
          (local.tee $column (i32.add (local.get $column) (i32.const 1))) (i32.const 64))))
      (br_if $rows (i32.lt_u
        (local.tee $row (i32.add (local.get $row) (i32.const 1))) (i32.const 64))))
    (local.get $trace))
  (func (export "run") (param $n i32) (result i32) (local $last f64)
    (call $fill)
    (loop $next
      (local.set $last (call $multiply))
      (br_if $next (local.tee $n (i32.sub (local.get $n) (i32.const 1)))))
    (i32.trunc_f64_s (local.get $last))))
