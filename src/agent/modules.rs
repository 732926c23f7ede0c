//! Modules of tasks and deployments: loaded, stored, inline, in chunks or over HTTP.

use super::{
    fetch::{Fetch, Pending},
    reason::{Reason, Refusal},
};
use crate::{
    config::FETCHES_MAX,
    engine::{ArenaUsage, Engine, Limits, ModuleId},
    http::{Accept, Method, Part, Request, RequestId, Url},
    memory::{Purpose, Shortage},
    module::{
        chunks::TooLarge,
        hex::to_hex,
        reference::{Reference, check},
        signature::Trust,
        stream::Stream,
        table::{Digest, ModuleEntry, Table, digest, digest_base64},
    },
    store::Store,
    text::{Text, clip, text},
    time::{Duration, Instant},
    wire::{Chunk, Error, decode_into, decoded_len},
};

/// Bytes of a location that an error shows.
const SHOWN: usize = 64;

/// Bounds on modules.
#[derive(Debug, Clone, Copy)]
pub(super) struct ModuleLimits {
    /// Maximum number of bytes of a module.
    pub(super) bytes: usize,
    /// Time for which an incomplete module is kept that no task waits for.
    pub(super) assembly_ttl: Duration,
    /// Limits of a run that asks for none: a module that a deployment wants is held to them.
    pub(super) run: Limits,
}

/// A module that a start wants.
#[derive(Debug, Clone, Copy)]
pub(super) struct Wanted<'s> {
    /// The image reference; empty without one.
    pub(super) image: &'s str,
    /// The module itself, in base64.
    pub(super) file: Option<&'s str>,
    pub(super) usage: Usage,
}

/// Use of a module.
#[derive(Debug, Clone, Copy)]
pub(super) enum Usage {
    /// A run within these limits follows at once.
    Run(Limits),
    /// For a deployment: it must be stored, where there is a store.
    Deployment,
}

/// A module, or a wait for it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Obtained {
    /// Loaded. One use of it is the caller's, who must [`release`](Modules::release) it.
    Ready(ModuleId),
    /// On its way. The caller waits, until it [`leaves`](Modules::leave) or the module has
    /// [`arrived`](Modules::arrived).
    Waiting(u8),
}

/// A fetch that has ended.
#[derive(Debug)]
pub(super) struct Arrival<B> {
    /// The beginning of the module's location, for errors.
    pub(super) location: heapless::String<SHOWN>,
    /// The loaded module, of which one use is the caller's.
    pub(super) result: Result<ModuleId, Reason<B>>,
}

/// Owner of the module table, the fetches, the store and the trusted keys.
#[derive(Debug)]
pub(super) struct Modules<'a, E: Engine> {
    table: Table<'a>,
    fetches: &'a mut [Fetch<E::Buffer>],
    store: Option<&'a mut dyn Store>,
    trust: Option<Trust<'a>>,
    limits: ModuleLimits,
}

impl<'a, E: Engine> Modules<'a, E> {
    /// Without a module. The first [`FETCHES_MAX`] of `fetches` are used.
    pub(super) fn new(
        entries: &'a mut [ModuleEntry],
        fetches: &'a mut [Fetch<E::Buffer>],
        store: Option<&'a mut dyn Store>,
        limits: ModuleLimits,
    ) -> Self {
        let fetches_max = fetches.len().min(FETCHES_MAX);
        let fetches = &mut fetches[..fetches_max];
        fetches.fill_with(|| Fetch::VACANT);
        Self {
            table: Table::new(entries),
            fetches,
            store,
            trust: None,
            limits,
        }
    }

    pub(super) fn set_trust(&mut self, trust: Trust<'a>) {
        self.trust = Some(trust);
    }

    /// Modules that are loaded.
    pub(super) fn loaded(&self) -> usize {
        self.table.loaded()
    }

    /// Modules parsed since boot.
    pub(super) fn parses(&self) -> u32 {
        self.table.parses()
    }

    /// The loaded modules, and the number of users of each.
    pub(super) fn users(&self) -> impl Iterator<Item = (ModuleId, Digest, u32)> {
        self.table.users()
    }

    /// Counts one more user of a loaded module.
    pub(super) fn acquire(&mut self, module: ModuleId) {
        self.table.acquire(module);
    }

    /// Counts one user less; the last one's module is unloaded.
    pub(super) fn release(&mut self, module: ModuleId, engine: &mut E) {
        if self.table.release(module) {
            engine.unload(module);
        }
    }

    /// Finds a start's module, or waits for it.
    ///
    /// # Errors
    /// It can't be had.
    #[inline(never)]
    pub(super) fn obtain(
        &mut self,
        wanted: &Wanted<'_>,
        engine: &mut E,
        now: Instant,
    ) -> Result<Obtained, Reason<E::Buffer>> {
        let reference = Reference::parse(wanted.image);
        let reference = reference.map_err(|e| engine.words(format_args!("{e}")))?;
        let expected = reference.digest.as_ref();
        if let Some(file) = wanted.file {
            let module = self.inline(file, expected, wanted.usage, engine)?;
            return Ok(Obtained::Ready(module));
        }
        if let Some(digest) = expected
            && (matches!(wanted.usage, Usage::Run(_)) || self.is_stored(digest))
            && let Some(module) = self.recall(digest, wanted.usage, engine)?
        {
            return Ok(Obtained::Ready(module));
        }
        let index = self.fetch(wanted.image, &reference, now)?;
        if let Some(fetch) = self.pending_mut(index) {
            fetch.waiters = fetch.waiters.saturating_add(1);
        }
        Ok(Obtained::Waiting(index))
    }

    /// The module whose bytes are `file` in base64: a loaded one, or this one, newly parsed.
    #[inline(never)]
    fn inline(
        &mut self,
        file: &str,
        expected: Option<&Digest>,
        usage: Usage,
        engine: &mut E,
    ) -> Result<ModuleId, Reason<E::Buffer>> {
        let digest = digest_base64(file).map_err(Refusal::File)?;
        check(expected, &digest)?;
        let keep = matches!(usage, Usage::Deployment) && !self.is_stored(&digest);
        if !keep && let Some(known) = self.find(&digest) {
            return Ok(known);
        }
        let len = decoded_len(file).map_err(Refusal::File)?;
        self.evict_for(len, engine);
        let bytes = decode(file, len, self.limits.bytes, engine)?;
        self.take_bytes(bytes, digest, usage, keep, engine)
    }

    /// The loaded module with this digest; one use of it is the caller's.
    fn find(&mut self, digest: &Digest) -> Option<ModuleId> {
        let module = self.table.find(digest)?;
        self.table.acquire(module);
        Some(module)
    }

    /// Makes a module of its bytes, or finds that it is loaded already. With `keep` it goes to the
    /// store.
    fn take_bytes(
        &mut self,
        bytes: E::Buffer,
        digest: Digest,
        usage: Usage,
        keep: bool,
        engine: &mut E,
    ) -> Result<ModuleId, Reason<E::Buffer>> {
        let known = self.find(&digest);
        if known.is_none() {
            // Before anything is made of bytes that may not be trusted.
            self.check_signature(&bytes)?;
        }
        if keep {
            // Parsing rewrites the bytes.
            self.keep(&digest, &bytes);
        }
        if let Some(known) = known {
            return Ok(known);
        }
        let loaded = self.load(bytes, digest, usage, engine);
        if loaded.is_err() && keep {
            self.forget(&digest);
        }
        loaded
    }

    fn check_signature(&self, bytes: &[u8]) -> Result<(), Reason<E::Buffer>> {
        match &self.trust {
            Some(trust) => Ok(trust.check(bytes)?),
            None => Ok(()),
        }
    }

    /// Parses a module that is not loaded; one use of it is the caller's.
    #[inline(never)]
    fn load(
        &mut self,
        bytes: E::Buffer,
        digest: Digest,
        usage: Usage,
        engine: &mut E,
    ) -> Result<ModuleId, Reason<E::Buffer>> {
        match usage {
            Usage::Run(limits) => {
                let needs = engine.estimate(&bytes, &limits)?;
                let need = needs.load.saturating_add(needs.instance);
                self.make_room(need, Purpose::ModuleAndInstance, engine)?;
            }
            Usage::Deployment => {
                let needs = engine.estimate(&bytes, &self.limits.run)?;
                self.make_room(needs.load, Purpose::Module, engine)?;
            }
        }
        // The table has 65,534 entries at most.
        let full = Refusal::NoEntry(self.table.capacity() as u16);
        let module = self.table.vacant().ok_or(full)?;
        engine.load(module, bytes)?;
        self.table.loaded_as(module, digest);
        self.table.acquire(module);
        Ok(module)
    }

    /// Refuses what does not fit the arena, even without the modules that no task waits for.
    ///
    /// # Errors
    /// The shortage that remains.
    pub(super) fn make_room(
        &mut self,
        need: usize,
        purpose: Purpose,
        engine: &E,
    ) -> Result<(), Shortage> {
        self.evict_for(need, engine);
        Shortage::check(purpose, need, engine.arena().available())
    }

    /// Frees modules on their way that no task waits for, while `need` bytes do not fit but could.
    pub(super) fn evict_for(&mut self, need: usize, engine: &E) {
        let lacks = |arena: ArenaUsage| need > arena.available() && need <= arena.total;
        while lacks(engine.arena()) && self.evict_idle() {}
    }

    /// Frees the idle fetch that began first; false if none is idle.
    fn evict_idle(&mut self) -> bool {
        let began = |fetch: &Fetch<E::Buffer>| {
            let idle = fetch.pending().filter(|f| f.waiters == 0);
            idle.map(|f| f.began)
        };
        let idle = self.fetches.iter_mut().filter(|f| began(f).is_some());
        match idle.min_by_key(|f| began(f)) {
            Some(fetch) => {
                fetch.take();
                true
            }
            None => false,
        }
    }

    fn pending(&self, index: u8) -> Option<&Pending<E::Buffer>> {
        self.fetches.get(usize::from(index))?.pending()
    }

    fn pending_mut(&mut self, index: u8) -> Option<&mut Pending<E::Buffer>> {
        self.fetches.get_mut(usize::from(index))?.pending_mut()
    }

    /// The modules on their way.
    fn all(&self) -> impl Iterator<Item = (u8, &Pending<E::Buffer>)> {
        let fetches = (0..=u8::MAX).zip(self.fetches.iter());
        fetches.filter_map(|(index, fetch)| Some((index, fetch.pending()?)))
    }

    fn all_mut(&mut self) -> impl Iterator<Item = (u8, &mut Pending<E::Buffer>)> {
        let fetches = (0..=u8::MAX).zip(self.fetches.iter_mut());
        fetches.filter_map(|(index, fetch)| Some((index, fetch.pending_mut()?)))
    }

    /// Fetches `image`, together with all who wait for it already.
    fn fetch(
        &mut self,
        image: &str,
        reference: &Reference<'_>,
        now: Instant,
    ) -> Result<u8, Reason<E::Buffer>> {
        let mut all = self.all_mut();
        if let Some((index, fetch)) = all.find(|(_, f)| f.reference() == image) {
            if fetch.waiters == 0 {
                fetch.renew();
            }
            return Ok(index);
        }
        drop(all);
        let vacant =
            |fetches: &[Fetch<E::Buffer>]| fetches.iter().position(|f| f.pending().is_none());
        if vacant(self.fetches).is_none() {
            self.evict_idle();
        }
        // There are FETCHES_MAX at most.
        let full = Refusal::NoFetch(self.fetches.len() as u8);
        let index = vacant(self.fetches).ok_or(full)?;
        let pending = Pending::new(image, reference, self.limits.bytes, now)?;
        self.fetches[index].begin(pending);
        Ok(index as u8)
    }

    /// Ends the wait of one who waits for a module.
    pub(super) fn leave(&mut self, fetch: u8) {
        if let Some(fetch) = self.pending_mut(fetch) {
            fetch.waiters = fetch.waiters.saturating_sub(1);
        }
    }

    /// The connection is up again. Chunks that came while it was down are gone with the session.
    pub(super) fn connect(&mut self) {
        for (_, fetch) in self.all_mut().filter(|(_, f)| f.waiters > 0) {
            fetch.renew();
        }
    }

    /// The fetch whose module the registry is to be asked for, given out once.
    pub(super) fn poll_registry_request(&mut self) -> Option<u8> {
        let mut all = self.all_mut();
        all.find_map(|(index, fetch)| fetch.take_registry_request().then_some(index))
    }

    /// A request to the registry was lost.
    pub(super) fn registry_request_lost(&mut self, fetch: u8) {
        if let Some(fetch) = self.pending_mut(fetch).filter(|f| f.waiters > 0) {
            fetch.renew();
        }
    }

    /// Name under which the registry has the module; empty if it is not on its way any more.
    pub(super) fn location(&self, fetch: u8) -> &str {
        self.pending(fetch).map_or("", Pending::location)
    }

    /// The next request to a server, as `id`, given out once.
    pub(super) fn poll_request(&mut self, id: RequestId) -> Option<Request> {
        let limit = self.limits.bytes;
        let (_, fetch) = self.all_mut().find(|(_, f)| f.has_http_request())?;
        let request = Request {
            // A reference is no longer.
            url: Url::try_from(fetch.location()).ok()?,
            method: Method::Get,
            accept: Accept::Module,
            limit,
        };
        fetch.set_request(id);
        Some(request)
    }

    /// Requests to servers that are under way.
    pub(super) fn requests(&self) -> usize {
        self.all().filter(|(_, f)| f.is_requested()).count()
    }

    /// The fetch whose request this is.
    pub(super) fn request(&self, id: RequestId) -> Option<u8> {
        let mut all = self.all();
        all.find_map(|(index, f)| f.has_request(id).then_some(index))
    }

    /// Takes a part of a response.
    ///
    /// # Errors
    /// The exchange must be given up.
    pub(super) fn part(
        &mut self,
        fetch: u8,
        part: Part<'_>,
        engine: &E,
    ) -> Result<(), Reason<E::Buffer>> {
        let stream = self.stream(fetch).ok_or(Refusal::Unwanted)?;
        let growth = stream.growth(&part);
        self.evict_for(growth, engine);
        let stream = self.stream(fetch).ok_or(Refusal::Unwanted)?;
        let ended = match part {
            Part::Begin(length) => return Ok(stream.begin(length, engine)?),
            Part::Bytes(bytes) => return Ok(stream.append(bytes, engine)?),
            Part::End => stream.end(engine).map_err(Into::into),
            Part::Failed(reason) => Err(match stream.give_up() {
                Ok(()) => engine.words(format_args!("{reason}")).into(),
                Err(refused) => refused.into(),
            }),
        };
        if let Some(pending) = self.pending_mut(fetch) {
            pending.arrive(ended);
        }
        Ok(())
    }

    fn stream(&mut self, fetch: u8) -> Option<&mut Stream<E::Buffer>> {
        self.pending_mut(fetch)?.stream()
    }

    /// Whether chunks of `app` are of use.
    pub(super) fn takes_chunks_of(&self, app: &str) -> bool {
        self.all().any(|(_, f)| f.takes_chunks_of(app))
    }

    /// Storage of fetches, vacant ones too.
    pub(super) fn places(&self) -> impl Iterator<Item = u8> + use<E> {
        // There are FETCHES_MAX at most.
        0..self.fetches.len() as u8
    }

    /// Lets a fetch take a chunk of `app`, or the reason for which it can't be read. False if it is of no
    /// use to this one.
    pub(super) fn chunk(
        &mut self,
        fetch: u8,
        app: &str,
        chunk: Result<&Chunk<'_>, Error>,
        engine: &E,
    ) -> bool {
        let Some(pending) = self.pending(fetch).filter(|f| f.takes_chunks_of(app)) else {
            return false;
        };
        let growth = chunk.map_or(0, |chunk| pending.chunk_growth(chunk));
        self.evict_for(growth, engine);
        match (self.pending_mut(fetch), chunk) {
            (Some(fetch), Ok(chunk)) => fetch.chunk(chunk, engine),
            (Some(fetch), Err(error)) => fetch.arrive(Err(error.into())),
            (None, _) => {}
        }
        true
    }

    /// A fetch that has ended, and whose waiters can be served.
    pub(super) fn arrived(&self) -> Option<u8> {
        let mut all = self.all();
        all.find_map(|(index, f)| f.has_arrived().then_some(index))
    }

    /// Takes a fetch that has [`arrived`](Self::arrived) and makes a module of its bytes. With `keep`, or
    /// if it was asked for by its digest, the module goes to the store.
    #[inline(never)]
    pub(super) fn take(
        &mut self,
        fetch: u8,
        usage: Usage,
        keep: bool,
        engine: &mut E,
    ) -> Arrival<E::Buffer> {
        let taken = self.fetches.get_mut(usize::from(fetch));
        let Some(pending) = taken.and_then(Fetch::take) else {
            return Arrival {
                location: heapless::String::new(),
                result: Err(Refusal::Unwanted.into()),
            };
        };
        let location = clip(pending.location(), SHOWN);
        let location = heapless::String::try_from(location).unwrap_or_default();
        let expected = pending.digest().copied();
        let result = pending.into_result().and_then(|bytes| {
            let digest = digest(&bytes);
            check(expected.as_ref(), &digest)?;
            // The store is searched by a digest that a start names.
            let keep = keep || expected.is_some();
            self.take_bytes(bytes, digest, usage, keep, engine)
        });
        Arrival { location, result }
    }

    /// The reason for which one who waits gives up, after `seconds`.
    pub(super) fn late(&self, fetch: u8, seconds: u64, engine: &E) -> Reason<E::Buffer> {
        let Some(fetch) = self.pending(fetch) else {
            return Refusal::Unwanted.into();
        };
        let (count, total) = fetch.progress();
        let app = clip(fetch.location(), SHOWN);
        let words = if fetch.is_http() {
            engine.words(format_args!(
                "timeout: module {app} is not here after {seconds} s"
            ))
        } else {
            engine.words(format_args!(
                "timeout waiting for binary chunks: module {app} has {count} of {total} after {seconds} s"
            ))
        };
        words.into()
    }

    /// Drops idle fetches. The registry goes on sending for others; a server only for as long as
    /// one waits.
    pub(super) fn expire(&mut self, now: Instant) {
        let ttl = self.limits.assembly_ttl;
        for fetch in self.fetches.iter_mut() {
            let is_over = |f: &Pending<E::Buffer>| f.is_http() || f.began + ttl <= now;
            let idle = fetch.pending().filter(|f| f.waiters == 0 && is_over(f));
            if let Some(idle) = idle {
                log::warn!("incomplete module {} dropped", idle.location());
                fetch.take();
            }
        }
    }

    /// Times at which fetches that are idle then are dropped.
    pub(super) fn next_deadlines(&self) -> impl Iterator<Item = Instant> {
        let ttl = self.limits.assembly_ttl;
        self.all().map(move |(_, f)| f.began + ttl)
    }

    /// The module with this digest, from the table or the store; one use of it is the caller's.
    ///
    /// # Errors
    /// It is stored, and can't be loaded.
    pub(super) fn recall(
        &mut self,
        digest: &Digest,
        usage: Usage,
        engine: &mut E,
    ) -> Result<Option<ModuleId>, Reason<E::Buffer>> {
        if let Some(known) = self.find(digest) {
            return Ok(Some(known));
        }
        let stored = self.store.as_deref_mut().and_then(|s| s.module_len(digest));
        let Some(len) = stored else {
            return Ok(None);
        };
        self.make_room(len, Purpose::ModuleBytes, engine)?;
        let mut bytes = engine.allocate(len)?;
        if !self.read(digest, &mut bytes) {
            return Ok(None);
        }
        self.check_signature(&bytes)?;
        self.load(bytes, *digest, usage, engine).map(Some)
    }

    /// Reads a module from the store and verifies it. One that is damaged is removed.
    fn read(&mut self, expected: &Digest, into: &mut [u8]) -> bool {
        let Some(store) = self.store.as_deref_mut() else {
            return false;
        };
        let reason = match store.read_module(expected, into) {
            Ok(()) if digest(into) == *expected => return true,
            Ok(()) => text(format_args!("its bytes have changed")),
            Err(reason) => reason,
        };
        let hex = to_hex(expected);
        log::error!("module sha256:{hex} in the store is damaged: {reason}; it is removed");
        if let Err(reason) = store.remove_module(expected) {
            log::error!("module sha256:{hex} can't be removed: {reason}");
        }
        false
    }

    /// Whether the store has this module, or there is no store.
    fn is_stored(&mut self, digest: &Digest) -> bool {
        let store = self.store.as_deref_mut();
        store.is_none_or(|store| store.module_len(digest).is_some())
    }

    /// Stores a module, as far as that is possible.
    fn keep(&mut self, digest: &Digest, bytes: &[u8]) {
        if let Some(store) = self.store.as_deref_mut()
            && let Err(reason) = store.write_module(digest, bytes)
        {
            log::warn!("module sha256:{} is not stored: {reason}", to_hex(digest));
        }
    }

    /// Removes a module that can't be loaded from the store.
    fn forget(&mut self, digest: &Digest) {
        if let Some(store) = self.store.as_deref_mut()
            && let Err(reason) = store.remove_module(digest)
        {
            log::warn!(
                "module sha256:{} stays in the store: {reason}",
                to_hex(digest)
            );
        }
    }

    /// Reads the stored record at `index`; `None` without one.
    ///
    /// # Errors
    /// It can't be read.
    pub(super) fn read_record(
        &mut self,
        index: u8,
        into: &mut [u8],
    ) -> Result<Option<usize>, Text> {
        match self.store.as_deref_mut() {
            Some(store) => store.read_record(index, into),
            None => Ok(None),
        }
    }

    /// Stores a record of a deployment of `module` at `index`: `write` puts it into a buffer, behind the
    /// module's digest. Nothing without a store.
    ///
    /// # Errors
    /// It can't be stored.
    pub(super) fn write_record<const N: usize>(
        &mut self,
        index: u8,
        module: ModuleId,
        write: impl FnOnce(&Digest, &mut [u8]) -> Option<usize>,
    ) -> Result<(), Text> {
        let Some(digest) = self.table.digest(module) else {
            return Ok(());
        };
        let Some(store) = self.store.as_deref_mut() else {
            return Ok(());
        };
        let mut bytes = [0; N];
        match write(&digest, &mut bytes) {
            None => Err(text(format_args!(
                "inputs and env make a record of more than {N} bytes"
            ))),
            Some(_) if store.module_len(&digest).is_none() => {
                Err(text(format_args!("its module is not stored")))
            }
            Some(len) => store.write_record(index, &bytes[..len]),
        }
    }

    /// Removes the stored record at `index`.
    pub(super) fn remove_record(&mut self, index: u8) {
        if let Some(store) = self.store.as_deref_mut()
            && let Err(reason) = store.remove_record(index)
        {
            log::error!("latent deployment {index} stays in the store: {reason}");
        }
    }
}

/// The `len` bytes that `file` is in base64.
fn decode<E: Engine>(
    file: &str,
    len: usize,
    limit: usize,
    engine: &E,
) -> Result<E::Buffer, Reason<E::Buffer>> {
    if len > limit {
        return Err(Refusal::ModuleTooLarge(TooLarge { len, limit }).into());
    }
    Shortage::check(Purpose::ModuleBytes, len, engine.arena().available())?;
    let mut bytes = engine.allocate(len)?;
    decode_into(file, &mut bytes).map_err(Refusal::File)?;
    Ok(bytes)
}

#[cfg(test)]
impl<E: Engine> Modules<'_, E> {
    /// Those who wait for the fetch at `index`, if there is one.
    pub(super) fn waiters(&self, index: u8) -> Option<usize> {
        self.pending(index).map(|f| f.waiters.into())
    }
}
