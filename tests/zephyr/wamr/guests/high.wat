;; As compiled code with a stack of its own, which ends at 3072, below a heap from 3328 on.
;; run(n): the sum of 1 to n, each of which lies on that stack for a moment.
(module
  (memory (export "memory") 2)
  (global $sp (mut i32) (i32.const 3072))
  (global (export "__data_end") i32 (i32.const 3072))
  (global (export "__heap_base") i32 (i32.const 3328))
  (func (export "run") (param $n i32) (result i32) (local $sum i32)
    (loop $next
      (global.set $sp (i32.sub (global.get $sp) (i32.const 16)))
      (i32.store (global.get $sp) (local.get $n))
      (local.set $sum (i32.add (local.get $sum) (i32.load (global.get $sp))))
      (global.set $sp (i32.add (global.get $sp) (i32.const 16)))
      (br_if $next (local.tee $n (i32.sub (local.get $n) (i32.const 1)))))
    (local.get $sum)))
