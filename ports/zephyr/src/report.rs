//! The shell's pages: a question from its thread, a page from the control thread.

#[cfg(CONFIG_SHELL)]
pub use asked::{ask, retract, take};

#[cfg(CONFIG_SHELL)]
mod asked {
    use crate::ffi::Page;
    use core::cell::RefCell;
    use critical_section::Mutex;

    /// Shell commands run one at a time, so there is one question.
    static ASKED: Mutex<RefCell<Option<(u32, Page)>>> = Mutex::new(RefCell::new(None));

    /// Asks for a `PROPLET_PAGE_*`, to be written to `page`.
    pub fn ask(which: u32, page: Page) {
        critical_section::with(|cs| ASKED.borrow_ref_mut(cs).replace((which, page)));
    }

    /// Takes the question back; false if it is being answered.
    pub fn retract() -> bool {
        take().is_some()
    }

    /// The question, if there is one.
    pub fn take() -> Option<(u32, Page)> {
        critical_section::with(|cs| ASKED.borrow_ref_mut(cs).take())
    }
}

use crate::{ffi, platform::ZephyrAgent};
use core::fmt::{self, Write};
use proplet::{engine::Engine as _, module::hex::to_hex, time::Instant};
use proplet_link::LinkStatus;

/// Bytes of a page.
#[cfg(CONFIG_SHELL)]
pub const PAGE: usize = zephyr::kconfig::CONFIG_PROPLET_SHELL_TEXT_SIZE as usize;

/// Answers the question, if there is one.
// The page is not to be part of the frame of all that the control thread does.
#[cfg(CONFIG_SHELL)]
#[inline(never)]
pub fn answer(agent: &ZephyrAgent, link: &LinkStatus, now: Instant) {
    use crate::header;
    let Some((which, page)) = take() else {
        return;
    };
    let mut text = heapless::String::<PAGE>::new();
    // A text that does not fit is cut.
    let _ = match which {
        header::PROPLET_PAGE_STATUS => status(&mut text, agent, link, now),
        header::PROPLET_PAGE_TASKS => tasks(&mut text, agent, now),
        _ => modules(&mut text, agent),
    };
    page.done(&text);
}

/// The state of the network.
pub fn network(out: &mut impl Write) -> fmt::Result {
    #[cfg(CONFIG_PROPLET_WIFI)]
    writeln!(out, "wifi      {}", crate::wifi::state())?;
    #[cfg(not(CONFIG_PROPLET_WIFI))]
    writeln!(
        out,
        "network   {}",
        match ffi::net_is_up() {
            true => "up",
            false => "no address",
        }
    )?;
    Ok(())
}

/// The state of everything.
pub fn status(
    out: &mut impl Write,
    agent: &ZephyrAgent,
    link: &LinkStatus,
    now: Instant,
) -> fmt::Result {
    let (status, arena) = (agent.status(), agent.engine().arena());
    let (image, ram) = ffi::ram();
    writeln!(out, "uptime    {} s", now.as_millis() / 1000)?;
    network(out)?;
    write!(
        out,
        "broker    {}, {} connections, {} lost, {} failed",
        match status.connected {
            true => "connected",
            false => "not connected",
        },
        link.connects(),
        link.losses(),
        link.failures()
    )?;
    match link.last_error() {
        Some(error) => writeln!(out, "; last trouble: {error}")?,
        None => writeln!(out)?,
    }
    writeln!(
        out,
        "tasks     {} of {} slots run, {} fetch, {} deployed",
        status.running, status.slots, status.fetching, status.deployed
    )?;
    writeln!(
        out,
        "modules   {} loaded, {} parses since boot",
        status.modules, status.parses
    )?;
    writeln!(
        out,
        "arena     {} of {} bytes free",
        arena.free, arena.total
    )?;
    if ram > 0 {
        writeln!(out, "RAM       {image} of {ram} bytes in the image")?;
    }
    writeln!(
        out,
        "stack     {} bytes of the control thread's never used",
        ffi::stack_unused()
    )
}

/// Runs and deployments, a line each, as many as fit the page; and the number of those that do not.
#[cfg(CONFIG_SHELL)]
pub fn tasks(out: &mut heapless::String<PAGE>, agent: &ZephyrAgent, now: Instant) -> fmt::Result {
    /// Bytes of a line with the longest ids and name.
    const LINE: usize = 288;
    /// Bytes that are kept for the last line.
    const LAST: usize = 24;
    writeln!(out, "slot stage     cpu ms   bytes age s task, export")?;
    let mut hidden = 0;
    for view in agent.tasks() {
        let mut line = heapless::String::<LINE>::new();
        task(&mut line, &view, now)?;
        match hidden == 0 && out.len() + line.len() + LAST <= PAGE {
            true => out.write_str(&line)?,
            false => hidden += 1,
        }
    }
    if hidden > 0 {
        writeln!(out, "and {hidden} more")?;
    }
    Ok(())
}

#[cfg(CONFIG_SHELL)]
fn task(out: &mut impl Write, task: &proplet::agent::TaskView<'_>, now: Instant) -> fmt::Result {
    match task.slot {
        Some(slot) => write!(out, "{:>4} ", slot.0)?,
        None => write!(out, "   - ")?,
    }
    // Debug has no width of its own.
    let mut stage = heapless::String::<12>::new();
    write!(stage, "{:?}", task.stage)?;
    write!(
        out,
        "{stage:<9} {:>6} {:>7} {:>5} {} {}",
        task.usage.cpu.as_millis(),
        task.usage.memory,
        now.since(task.received).as_secs(),
        task.id,
        task.name
    )?;
    match task.invocation {
        Some(id) => writeln!(out, " (invocation {id})"),
        None => writeln!(out),
    }
}

/// Loaded modules, a line each.
pub fn modules(out: &mut impl Write, agent: &ZephyrAgent) -> fmt::Result {
    writeln!(out, "entry users sha256")?;
    for module in agent.modules() {
        let (id, users, digest) = (module.id.0, module.users, to_hex(&module.digest));
        writeln!(out, "{id:>5} {users:>5} {digest}")?;
    }
    Ok(())
}
