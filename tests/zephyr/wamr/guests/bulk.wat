;; Two pages. fill(value, len): from address 1 on. move(to, from, len): as memory.copy.
;; sum(from, len): of bytes.
(module
  (memory 2 2)
  (func (export "fill") (param $value i32) (param $len i32)
    (memory.fill (i32.const 1) (local.get $value) (local.get $len)))
  (func (export "move") (param $to i32) (param $from i32) (param $len i32)
    (memory.copy (local.get $to) (local.get $from) (local.get $len)))
  (func (export "sum") (param $from i32) (param $len i32) (result i32) (local $sum i32)
    (loop $next
      (local.set $sum (i32.add (local.get $sum) (i32.load8_u (local.get $from))))
      (local.set $from (i32.add (local.get $from) (i32.const 1)))
      (br_if $next (local.tee $len (i32.sub (local.get $len) (i32.const 1)))))
    (local.get $sum)))
