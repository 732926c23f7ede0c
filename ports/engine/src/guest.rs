//! What guests may call, as module `env`.

use crate::worker::{Platform, Turns};
use wamr::{Caller, HostError, HostFunction};

/// `get_proplet_id(ret_offset: i32, ret_len: i32) -> i32`, as the C proplet offers it: puts the
/// proplet's id into memory from the guest's own `malloc`, writes its address and its length in
/// bytes to the two pointers, and returns 1; or 0 if the guest has no memory for it.
pub const fn host_functions<P: Platform>() -> [HostFunction; 1] {
    [HostFunction {
        module: c"env",
        name: c"get_proplet_id",
        signature: c"(ii)i",
        call: get_proplet_id::<P>,
    }]
}

fn get_proplet_id<P: Platform>(caller: &mut Caller<'_>, args: &mut [u64]) -> Result<(), HostError> {
    let id = caller.context::<Turns<P>>().map_or("", Turns::proplet_id);
    let (offset, len) = (args[0] as u32, args[1] as u32);
    // The C proplet ends the string with a zero; the length does not count it.
    let found = match caller.alloc_in_guest(id.len() as u32 + 1) {
        Ok(at) => {
            caller.write(at, id.as_bytes())?;
            caller.write(at + id.len() as u32, &[0])?;
            caller.write(offset, &at.to_le_bytes())?;
            caller.write(len, &(id.len() as u32).to_le_bytes())?;
            1
        }
        Err(_) => 0,
    };
    args[0] = found;
    Ok(())
}
