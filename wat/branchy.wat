;; A small state machine, $n steps: blocks, an if, br_if and br_table, hardly any arithmetic.
(module
  (func (export "run") (param $n i32) (result i32) (local $state i32) (local $sum i32)
    (loop $next
      (block $done
        (block $three
          (block $two
            (block $one
              (block $zero
                (br_table $zero $one $two $three (i32.and (local.get $state) (i32.const 3))))
              (local.set $sum (i32.add (local.get $sum) (i32.const 1)))
              (br $done))
            (local.set $sum (i32.xor (local.get $sum) (local.get $n)))
            (br_if $done (i32.and (local.get $sum) (i32.const 1))))
          (if (i32.and (local.get $sum) (i32.const 2))
            (then (local.set $sum (i32.add (local.get $sum) (i32.const 3))))
            (else (local.set $sum (i32.add (local.get $sum) (i32.const 5))))))
        (local.set $sum (i32.rotl (local.get $sum) (i32.const 1))))
      (local.set $state (i32.add (local.get $state) (local.get $sum)))
      (br_if $next (local.tee $n (i32.sub (local.get $n) (i32.const 1)))))
    (local.get $sum)))
