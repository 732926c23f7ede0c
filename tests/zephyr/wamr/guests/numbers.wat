;; One function for each operation that needs the C or the compiler's library. Floating-point
;; numbers go as the bits of an i64.
(module
  (func (export "nearest") (param i64) (result i64)
    (i64.reinterpret_f64 (f64.nearest (f64.reinterpret_i64 (local.get 0)))))
  (func (export "floor") (param i64) (result i64)
    (i64.reinterpret_f64 (f64.floor (f64.reinterpret_i64 (local.get 0)))))
  (func (export "ceil") (param i64) (result i64)
    (i64.reinterpret_f64 (f64.ceil (f64.reinterpret_i64 (local.get 0)))))
  (func (export "trunc") (param i64) (result i64)
    (i64.reinterpret_f64 (f64.trunc (f64.reinterpret_i64 (local.get 0)))))
  (func (export "sqrt") (param i64) (result i64)
    (i64.reinterpret_f64 (f64.sqrt (f64.reinterpret_i64 (local.get 0)))))
  (func (export "to_integer") (param i64) (result i64)
    (i64.trunc_f64_s (f64.reinterpret_i64 (local.get 0))))
  (func (export "from_integer") (param i64) (result i64)
    (i64.reinterpret_f64 (f64.convert_i64_u (local.get 0))))
  (func (export "nearest32") (param i64) (result i64)
    (i64.extend_i32_u (i32.reinterpret_f32
      (f32.nearest (f32.reinterpret_i32 (i32.wrap_i64 (local.get 0)))))))
  (func (export "floor32") (param i64) (result i64)
    (i64.extend_i32_u (i32.reinterpret_f32
      (f32.floor (f32.reinterpret_i32 (i32.wrap_i64 (local.get 0)))))))
  (func (export "ceil32") (param i64) (result i64)
    (i64.extend_i32_u (i32.reinterpret_f32
      (f32.ceil (f32.reinterpret_i32 (i32.wrap_i64 (local.get 0)))))))
  (func (export "trunc32") (param i64) (result i64)
    (i64.extend_i32_u (i32.reinterpret_f32
      (f32.trunc (f32.reinterpret_i32 (i32.wrap_i64 (local.get 0)))))))
  (func (export "sqrt32") (param i64) (result i64)
    (i64.extend_i32_u (i32.reinterpret_f32
      (f32.sqrt (f32.reinterpret_i32 (i32.wrap_i64 (local.get 0)))))))
  (func (export "third") (param i64) (result i64)
    (i64.div_s (local.get 0) (i64.const 3)))
  (func (export "shift") (param i64) (result i64)
    (i64.shr_u (local.get 0) (i64.const 33))))
