;; run(size, rounds): the product of two f64 matrices of `size` by `size`, `rounds` times. Returns
;; the sum of the last product's elements, truncated.
;; A at 0, B behind it, row by row; the product's elements are summed and not kept: 64 by 64 fills
;; the first page, 512 by 512 takes 64 pages. A size outside 1 to 512 traps, and so does one for
;; which the memory can't grow; rounds below 1 count as 1.
(module
  (memory 1)
  ;; 16 * size^2 bytes are size^2 / 4096 pages.
  (func $reserve (param $size i32) (local $more i32)
    (local.set $more (i32.sub
      (i32.shr_u
        (i32.add (i32.mul (local.get $size) (local.get $size)) (i32.const 4095))
        (i32.const 12))
      (memory.size)))
    (if (i32.gt_s (local.get $more) (i32.const 0))
      (then
        (if (i32.eq (memory.grow (local.get $more)) (i32.const -1))
          (then (unreachable))))))
  ;; A = 1, 2, … 7, 1, 2, …; B = 1, 2, … 5, 1, 2, …
  (func $fill (param $size i32) (local $i i32) (local $a i32) (local $b i32) (local $end i32)
    (local.set $end (i32.shl (i32.mul (local.get $size) (local.get $size)) (i32.const 3)))
    (local.set $b (local.get $end))
    (loop $next
      (f64.store (local.get $a) (f64.convert_i32_u
        (i32.add (i32.rem_u (local.get $i) (i32.const 7)) (i32.const 1))))
      (f64.store (local.get $b) (f64.convert_i32_u
        (i32.add (i32.rem_u (local.get $i) (i32.const 5)) (i32.const 1))))
      (local.set $i (i32.add (local.get $i) (i32.const 1)))
      (local.set $b (i32.add (local.get $b) (i32.const 8)))
      (br_if $next (i32.lt_u
        (local.tee $a (i32.add (local.get $a) (i32.const 8))) (local.get $end)))))
  (func $multiply (param $size i32) (result f64)
    (local $stride i32) (local $b_start i32) (local $b_row_end i32)
    (local $row i32) (local $row_end i32) (local $column i32)
    (local $a i32) (local $b i32) (local $sum f64) (local $total f64)
    (local.set $stride (i32.shl (local.get $size) (i32.const 3)))
    (local.set $b_start (i32.mul (local.get $stride) (local.get $size)))
    (local.set $b_row_end (i32.add (local.get $b_start) (local.get $stride)))
    (loop $rows
      (local.set $row_end (i32.add (local.get $row) (local.get $stride)))
      (local.set $column (local.get $b_start))
      (loop $columns
        (local.set $sum (f64.const 0))
        (local.set $a (local.get $row))
        (local.set $b (local.get $column))
        (loop $inner
          (local.set $sum (f64.add (local.get $sum)
            (f64.mul (f64.load (local.get $a)) (f64.load (local.get $b)))))
          (local.set $b (i32.add (local.get $b) (local.get $stride)))
          (br_if $inner (i32.lt_u
            (local.tee $a (i32.add (local.get $a) (i32.const 8))) (local.get $row_end))))
        (local.set $total (f64.add (local.get $total) (local.get $sum)))
        (br_if $columns (i32.lt_u
          (local.tee $column (i32.add (local.get $column) (i32.const 8)))
          (local.get $b_row_end))))
      (br_if $rows (i32.lt_u
        (local.tee $row (local.get $row_end)) (local.get $b_start))))
    (local.get $total))
  (func (export "run") (param $size i32) (param $rounds i32) (result i32) (local $last f64)
    (if (i32.gt_u (i32.sub (local.get $size) (i32.const 1)) (i32.const 511))
      (then (unreachable)))
    (call $reserve (local.get $size))
    (call $fill (local.get $size))
    (loop $next
      (local.set $last (call $multiply (local.get $size)))
      (br_if $next (i32.gt_s
        (local.tee $rounds (i32.sub (local.get $rounds) (i32.const 1))) (i32.const 0))))
    (i32.trunc_f64_s (local.get $last))))
