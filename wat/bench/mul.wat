;; main(): 1,000,003 to the power of 20,000, modulo 2^32: as many multiplications.
(module
  (func (export "main") (result i32) (local $i i32) (local $product i32)
    (local.set $product (i32.const 1))
    (loop $next
      (local.set $product (i32.mul (local.get $product) (i32.const 1000003)))
      (br_if $next (i32.lt_u
        (local.tee $i (i32.add (local.get $i) (i32.const 1))) (i32.const 20000))))
    (local.get $product)))
