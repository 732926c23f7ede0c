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
        chunks::{ChunkError, Chunks, TooLarge},
        format,
        hex::to_hex,
        incoming::{Body, Incoming},
        reference::{Reference, check},
        seal::{seal, unseal},
        signature::Trust,
        stream::{Content, StreamError},
        strip::{Image, Provenance, strip_in_place},
        table::{Digest, ModuleEntry, Table},
    },
    store::Store,
    text::{Text, shorten, text},
    time::Instant,
    wire::{Error, Place},
};
use core::fmt::Write as _;

/// Bytes of a location that an error shows.
const SHOWN: usize = 64;

/// Bounds on modules.
#[derive(Debug, Clone, Copy)]
pub(super) struct ModuleLimits {
    /// Maximum number of bytes that are kept of a module.
    pub(super) bytes: usize,
    /// Limits of a run that asks for none: a module that a deployment wants is held to them.
    pub(super) run: Limits,
}

/// A module that a start wants.
#[derive(Debug)]
pub(super) struct Wanted<'s, B> {
    /// The image reference; empty without one.
    pub(super) image: &'s str,
    /// The module itself, or its fault.
    pub(super) file: Option<Result<Body<B>, Error>>,
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

/// Fetches that end together: the one that brought the bytes, and those that waited for them.
pub(super) type Group = heapless::Vec<u8, FETCHES_MAX>;

/// Fetches that have ended.
#[derive(Debug)]
pub(super) struct Arrival<B> {
    /// The module's location, for errors.
    pub(super) location: heapless::String<SHOWN>,
    /// The loaded module, of which one use is the caller's.
    pub(super) result: Result<ModuleId, Reason<B>>,
}

/// Destination of the data of the message that is being read.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Intake {
    /// A block of their own.
    Block,
    /// The chunks of this fetch, as the next of them.
    Chunk {
        fetch: u8,
        chunk_idx: u32,
        total_chunks: u32,
    },
    /// They are of no use.
    Nowhere,
}

/// Asks others to free memory for a module of which that many bytes are lacking; false if they can't.
pub(super) type Spare<'s> = &'s mut dyn FnMut(usize) -> bool;

/// Owner of the module table, the fetches, the store and the trusted keys.
#[derive(Debug)]
pub(super) struct Modules<'a, E: Engine> {
    table: Table<'a>,
    fetches: &'a mut [Fetch<E::Buffer>],
    /// What the message that is being read carries.
    incoming: Incoming<E::Buffer>,
    intake: Intake,
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
            incoming: Incoming::new(),
            intake: Intake::Block,
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
        wanted: Wanted<'_, E::Buffer>,
        engine: &mut E,
        spare: Spare<'_>,
    ) -> Result<Obtained, Reason<E::Buffer>> {
        let reference = Reference::parse(wanted.image);
        let reference = reference.map_err(|e| engine.words(format_args!("{e}")))?;
        let expected = reference.digest.as_ref();
        if let Some(file) = wanted.file {
            let body = file.map_err(Refusal::File)?;
            let module = self.inline(body, expected, wanted.usage, engine, spare)?;
            return Ok(Obtained::Ready(module));
        }
        if let Some(digest) = expected
            && (matches!(wanted.usage, Usage::Run(_)) || self.is_stored(digest))
            && let Some(module) = self.recall(digest, wanted.usage, engine, spare)?
        {
            return Ok(Obtained::Ready(module));
        }
        let index = self.fetch(wanted.image, &reference)?;
        if let Some(fetch) = self.pending_mut(index) {
            fetch.waiters = fetch.waiters.saturating_add(1);
        }
        Ok(Obtained::Waiting(index))
    }

    /// The module whose bytes these are: a loaded one, even if the bytes were not kept, or this one, newly
    /// parsed.
    #[inline(never)]
    fn inline(
        &mut self,
        body: Body<E::Buffer>,
        expected: Option<&Digest>,
        usage: Usage,
        engine: &mut E,
        spare: Spare<'_>,
    ) -> Result<ModuleId, Reason<E::Buffer>> {
        let (bytes, len) = (body.bytes, body.len);
        let provenance = body.provenance.ok_or(Refusal::Unwanted)?;
        let digest = provenance.digest;
        check(expected, &digest)?;
        let keep = matches!(usage, Usage::Deployment) && !self.is_stored(&digest);
        if !keep && let Some(known) = self.find(&digest) {
            return Ok(known);
        }
        match bytes {
            Ok(bytes) => self.take_image(Image { bytes, provenance }, usage, keep, engine, spare),
            Err(StreamError::TooLarge { limit, .. }) => {
                Err(Refusal::ModuleTooLarge(TooLarge { len, limit }).into())
            }
            Err(error) => {
                // Of the whole, not of the part that found no room.
                Shortage::check(Purpose::ModuleBytes, len, engine.arena().available())?;
                Err(error.into())
            }
        }
    }

    /// The loaded module with this digest; one use of it is the caller's.
    fn find(&mut self, digest: &Digest) -> Option<ModuleId> {
        let module = self.table.find(digest)?;
        self.table.acquire(module);
        Some(module)
    }

    /// Makes a module of its bytes, or finds that it is loaded already. With `keep` it goes to the
    /// store.
    fn take_image(
        &mut self,
        image: Image<E::Buffer>,
        usage: Usage,
        keep: bool,
        engine: &mut E,
        spare: Spare<'_>,
    ) -> Result<ModuleId, Reason<E::Buffer>> {
        let digest = image.provenance.digest;
        let known = self.find(&digest);
        if known.is_none() {
            format::check(&image.bytes)?;
            // Before anything is made of bytes that may not be trusted.
            self.check_signature(&image)?;
        }
        if keep {
            // Parsing rewrites the bytes.
            self.keep(&image);
        }
        if let Some(known) = known {
            return Ok(known);
        }
        let loaded = self.load(image, usage, engine, spare);
        if loaded.is_err() && keep {
            self.forget(&digest);
        }
        loaded
    }

    fn check_signature(&self, image: &Image<E::Buffer>) -> Result<(), Reason<E::Buffer>> {
        match &self.trust {
            Some(trust) => Ok(trust.check_stripped(&image.bytes, image.provenance.signed)?),
            None => Ok(()),
        }
    }

    /// Parses a module that is not loaded; one use of it is the caller's.
    #[inline(never)]
    fn load(
        &mut self,
        mut image: Image<E::Buffer>,
        usage: Usage,
        engine: &mut E,
        spare: Spare<'_>,
    ) -> Result<ModuleId, Reason<E::Buffer>> {
        let len = image.drop_signature();
        engine.resize(&mut image.bytes, len)?;
        let Image { bytes, provenance } = image;
        match usage {
            Usage::Run(limits) => {
                let needs = engine.estimate(&bytes, &limits)?;
                let need = needs.load.saturating_add(needs.instance);
                self.make_room(need, Purpose::ModuleAndInstance, engine, spare)?;
            }
            Usage::Deployment => {
                let needs = engine.estimate(&bytes, &self.limits.run)?;
                self.make_room(needs.load, Purpose::Module, engine, spare)?;
            }
        }
        // The table has 65,534 entries at most.
        let full = Refusal::NoEntry(self.table.capacity() as u16);
        let module = self.table.vacant().ok_or(full)?;
        engine.load(module, bytes)?;
        self.table.loaded_as(module, provenance.digest);
        self.table.acquire(module);
        Ok(module)
    }

    /// Refuses what does not fit the arena, even without the message that is being read and what others spare.
    ///
    /// # Errors
    /// The shortage that remains.
    pub(super) fn make_room(
        &mut self,
        need: usize,
        purpose: Purpose,
        engine: &E,
        spare: Spare<'_>,
    ) -> Result<(), Shortage> {
        self.evict_for(need, engine);
        loop {
            let available = engine.arena().available();
            match Shortage::check(purpose, need, available) {
                Err(_) if spare(need.saturating_sub(available)) => {}
                checked => return checked,
            }
        }
    }

    /// Frees the message that is being read if `need` bytes do not fit but could.
    pub(super) fn evict_for(&mut self, need: usize, engine: &E) {
        give_way(&mut self.incoming, need, engine);
    }

    /// Begins to take the bytes of a message, at most `limit` of them. They give way to all others.
    pub(super) fn begin_body(&mut self, content: Content, limit: usize) {
        self.abort_chunk();
        self.incoming.begin(content, limit);
    }

    /// Begins to take a module.
    pub(super) fn begin_module(&mut self) {
        self.abort_chunk();
        self.incoming.begin_module(self.limits.bytes);
    }

    /// Begins to take a chunk: where its place is known, into the module that it is of.
    pub(super) fn begin_chunk(&mut self, place: Option<Place<'_>>, engine: &E) {
        // The limit is on what is kept of the module.
        self.begin_body(Content::Module, usize::MAX);
        let Some(place) = place else {
            return;
        };
        self.intake = Intake::Nowhere;
        let Some(fetch) = self.taker(place.app_name) else {
            return;
        };
        let (chunk_idx, total_chunks) = (place.chunk_idx, place.total_chunks);
        let begun = self.with_chunks(fetch, engine, |chunks, make_room| {
            chunks.begin(chunk_idx, total_chunks, engine, make_room)
        });
        self.intake = match begun {
            Ok(true) => Intake::Chunk {
                fetch,
                chunk_idx,
                total_chunks,
            },
            Ok(false) => Intake::Block,
            Err(error) => return self.fail(fetch, error),
        };
    }

    /// The chunk that is being read does not come to its end.
    fn abort_chunk(&mut self) {
        if let Intake::Chunk { fetch, .. } = core::mem::replace(&mut self.intake, Intake::Block)
            && let Some(pending) = self.pending_mut(fetch)
        {
            pending.note_gap();
        }
    }

    /// Takes bytes of the message.
    pub(super) fn body(&mut self, bytes: &[u8], engine: &E) {
        match self.intake {
            Intake::Block => self.incoming.append(bytes, engine),
            Intake::Chunk { fetch, .. } => {
                let appended = self.with_chunks(fetch, engine, |chunks, make_room| {
                    chunks.append(bytes, engine, make_room)
                });
                if let Err(error) = appended {
                    self.intake = Intake::Nowhere;
                    self.fail(fetch, error);
                }
            }
            Intake::Nowhere => {}
        }
    }

    /// Takes all bytes of the message that lie in a block of their own.
    pub(super) fn take_body(&mut self, engine: &E) -> Body<E::Buffer> {
        self.incoming.take(engine)
    }

    /// Frees the bytes of a module that is loaded, unless they are to be stored for a deployment: they make
    /// room for its record.
    pub(super) fn shed(&mut self, body: &mut Body<E::Buffer>, is_deployment: bool) {
        if let Some(Provenance { digest, .. }) = body.provenance
            && self.table.find(&digest).is_some()
            && (!is_deployment || self.is_stored(&digest))
        {
            body.bytes = Err(StreamError::GaveWay(Content::Module));
        }
    }

    /// Drops the message.
    pub(super) fn drop_body(&mut self) {
        self.begin_body(Content::Message, 0);
    }

    /// Lets the chunks of a fetch take something; `f` gets what makes room in the arena.
    fn with_chunks<T>(
        &mut self,
        fetch: u8,
        engine: &E,
        f: impl FnOnce(&mut Chunks<E::Buffer>, &mut dyn FnMut(usize)) -> Result<T, ChunkError>,
    ) -> Result<T, Reason<E::Buffer>> {
        let Self {
            fetches, incoming, ..
        } = self;
        let pending = fetches
            .get_mut(usize::from(fetch))
            .and_then(Fetch::pending_mut);
        let chunks = pending.and_then(Pending::chunks).ok_or(Refusal::Unwanted)?;
        Ok(f(chunks, &mut |need| give_way(incoming, need, engine))?)
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

    /// Fetches `image`, together with all who wait for it already, or for its location.
    fn fetch(&mut self, image: &str, reference: &Reference<'_>) -> Result<u8, Reason<E::Buffer>> {
        let known = self.all().find(|(_, f)| f.reference() == image);
        if let Some((index, _)) = known {
            return Ok(index);
        }
        let vacant = self.fetches.iter().position(|f| f.pending().is_none());
        // There are FETCHES_MAX at most.
        let full = Refusal::NoFetch(self.fetches.len() as u8);
        let index = vacant.ok_or(full)?;
        let mut pending = Pending::new(image, reference, self.limits.bytes)?;
        let mut all = self.all();
        let leader = all.find(|(_, f)| f.leads() && f.location() == reference.location);
        if let Some((leader, fetch)) = leader {
            pending.follow(leader, fetch.has_begun());
        }
        drop(all);
        self.fetches[index].begin(pending);
        Ok(index as u8)
    }

    /// Ends the wait of one who waits for a module. What has come of it goes with the last.
    pub(super) fn leave(&mut self, fetch: u8) {
        let Some(pending) = self.pending_mut(fetch) else {
            return;
        };
        pending.waiters = pending.waiters.saturating_sub(1);
        if pending.waiters == 0 {
            self.give_up(fetch);
        }
    }

    /// Drops a fetch, or leaves what has come of it to one that waits for the same bytes.
    fn give_up(&mut self, fetch: u8) {
        let dropped = self.fetches.get_mut(usize::from(fetch));
        let Some(dropped) = dropped.and_then(Fetch::take) else {
            return;
        };
        let heir = self.followers(fetch).next();
        if let Some((heir, successor)) = heir.and_then(|h| Some((h, self.pending_mut(h)?))) {
            successor.succeed(dropped);
            self.follow(fetch, heir);
        }
        if let Intake::Chunk { fetch: taker, .. } = &mut self.intake
            && *taker == fetch
        {
            match heir {
                Some(heir) => *taker = heir,
                None => self.intake = Intake::Nowhere,
            }
        }
    }

    /// The fetches that wait for the bytes of `leader`.
    fn followers(&self, leader: u8) -> impl Iterator<Item = u8> {
        let all = self.all();
        all.filter_map(move |(index, f)| (f.leader() == Some(leader)).then_some(index))
    }

    /// Lets those who follow one fetch follow another.
    fn follow(&mut self, before: u8, leader: u8) {
        for (_, fetch) in self.all_mut() {
            if fetch.leader() == Some(before) {
                fetch.follow(leader, false);
            }
        }
    }

    /// The connection is lost, or up again. Chunks that come while it is down are gone with the session.
    pub(super) fn renew(&mut self) {
        for (_, fetch) in self.all_mut() {
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
        if let Some(fetch) = self.pending_mut(fetch) {
            fetch.renew();
        }
    }

    /// Name under which the registry has the module; empty if it is not on its way any more.
    pub(super) fn location(&self, fetch: u8) -> &str {
        self.pending(fetch).map_or("", Pending::location)
    }

    /// The next request to a server, as `id`, given out once.
    pub(super) fn poll_request(&mut self, id: RequestId) -> Option<Request> {
        let (_, fetch) = self.all_mut().find(|(_, f)| f.has_http_request())?;
        let request = Request {
            // A reference is no longer.
            url: Url::try_from(fetch.location()).ok()?,
            method: Method::Get,
            accept: Accept::Module,
            // What is dropped of it does not count.
            limit: usize::MAX,
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
        let Self {
            fetches, incoming, ..
        } = self;
        let pending = fetches
            .get_mut(usize::from(fetch))
            .and_then(Fetch::pending_mut)
            .ok_or(Refusal::Unwanted)?;
        let stream = pending.stream().ok_or(Refusal::Unwanted)?;
        let ended = match part {
            Part::Begin(length) => {
                pending.begin_response(length);
                return Ok(());
            }
            Part::Bytes(bytes) => {
                let make_room = |need| give_way(incoming, need, engine);
                return Ok(stream.append(bytes, engine, make_room)?);
            }
            Part::End => pending.end_response(engine),
            Part::Failed(reason) => Err(match stream.give_up() {
                Ok(()) => engine.words(format_args!("{reason}")).into(),
                Err(refused) => refused.into(),
            }),
        };
        match ended {
            Ok(image) => self.bytes_came(fetch, image, true),
            Err(reason) => self.fail(fetch, reason),
        }
        Ok(())
    }

    /// The fetch that takes chunks of `app`.
    pub(super) fn taker(&self, app: &str) -> Option<u8> {
        let mut all = self.all();
        let taker = all.find(|(_, f)| !f.is_http() && f.leads() && f.location() == app);
        taker.map(|(index, _)| index)
    }

    /// Takes a chunk, of which `body` has the data unless they went into the module as they came.
    pub(super) fn chunk(
        &mut self,
        place: &Place<'_>,
        body: Body<E::Buffer>,
        engine: &E,
        now: Instant,
    ) {
        let taker = self.taker(place.app_name);
        let at = (place.chunk_idx, place.total_chunks);
        let came = match core::mem::replace(&mut self.intake, Intake::Block) {
            Intake::Chunk {
                fetch,
                chunk_idx,
                total_chunks,
            } if taker == Some(fetch) && at == (chunk_idx, total_chunks) => {
                self.with_chunks(fetch, engine, |chunks, _| chunks.end())
            }
            intake @ (Intake::Chunk { .. } | Intake::Nowhere) => {
                self.intake = intake;
                self.abort_chunk();
                return log::warn!("a chunk of {} is not taken", place.app_name);
            }
            Intake::Block => match taker {
                Some(fetch) => self.whole_chunk(fetch, at, body, engine),
                None => return,
            },
        };
        match (came, taker) {
            (Ok(()), Some(fetch)) => self.chunk_came(fetch, engine, now),
            (Err(reason), Some(fetch)) => self.fail(fetch, reason),
            (_, None) => {}
        }
    }

    /// Takes a chunk from a block of its own.
    fn whole_chunk(
        &mut self,
        fetch: u8,
        at: (u32, u32),
        body: Body<E::Buffer>,
        engine: &E,
    ) -> Result<(), Reason<E::Buffer>> {
        let mut bytes = match body.bytes {
            Ok(bytes) => bytes,
            Err(error) => {
                return match self.with_chunks(fetch, engine, |chunks, _| chunks.pass_over(at))? {
                    true => Ok(()),
                    false => Err(error.into()),
                };
            }
        };
        if at == (0, 1) {
            // It is the module, and there may be no room for it twice.
            let (len, provenance) = strip_in_place(&mut bytes);
            let limit = self.limits.bytes;
            if len > limit {
                return Err(Refusal::ModuleTooLarge(TooLarge { len, limit }).into());
            }
            engine.resize(&mut bytes, len)?;
            self.bytes_came(fetch, Image { bytes, provenance }, true);
            return Ok(());
        }
        self.with_chunks(fetch, engine, |chunks, make_room| {
            chunks.accept(at, &bytes, engine, make_room)
        })
    }

    /// Takes the module of a fetch if the chunk that came was its last, or holds it: chunks that did not come one
    /// after the other may be of two versions. Starts that name digests need not wait.
    fn chunk_came(&mut self, fetch: u8, engine: &E, now: Instant) {
        let Some(pending) = self.pending_mut(fetch) else {
            return;
        };
        let Some(chunks) = pending.chunks().filter(|chunks| chunks.is_complete()) else {
            return;
        };
        let (is_straight, digest) = (chunks.is_straight(), chunks.digest());
        pending.hold(now);
        let group = self.group(fetch);
        let mut digests = group
            .iter()
            .filter_map(|f| Some(self.pending(*f)?.digest()));
        let is_decided = digests.clone().all(|wanted| wanted.is_some())
            || digests.any(|wanted| wanted == Some(&digest));
        if is_straight || is_decided {
            self.take_chunks(fetch, engine);
        }
    }

    /// Takes the module of which all chunks have come.
    fn take_chunks(&mut self, fetch: u8, engine: &E) {
        let image = self.with_chunks(fetch, engine, |chunks, make_room| {
            let is_straight = chunks.is_straight();
            Ok((chunks.finish(engine, make_room)?, is_straight))
        });
        match image {
            Ok((image, is_straight)) => self.bytes_came(fetch, image, is_straight),
            Err(reason) => self.fail(fetch, reason),
        }
    }

    /// When [`expire`](Self::expire) is due.
    pub(super) fn next_deadline(&self) -> Option<Instant> {
        self.all().filter_map(|(_, f)| f.held_until()).min()
    }

    /// Takes the modules that were held, and of which no chunk has come for a while. Those over a lost connection
    /// are asked for again: more may have been lost with it.
    pub(super) fn expire(&mut self, now: Instant, engine: &E) {
        while let Some(fetch) = self.held_out(now) {
            let pending = self.pending_mut(fetch);
            if !pending.is_some_and(Pending::drop_over_gap) {
                self.take_chunks(fetch, engine);
            }
        }
    }

    fn held_out(&self, now: Instant) -> Option<u8> {
        let mut all = self.all();
        all.find_map(|(index, f)| (f.held_until()? <= now).then_some(index))
    }

    /// Ends the fetches for which these bytes are, the module of a location that one fetch has brought. Those
    /// that want another digest fail, but for those that may get it yet.
    fn bytes_came(&mut self, fetch: u8, image: Image<E::Buffer>, is_straight: bool) {
        let digest = image.provenance.digest;
        let group = self.group(fetch);
        let wants = |f: &Pending<E::Buffer>| f.wants(&digest);
        let mut members = group.iter().copied();
        let taker = members.find(|index| self.pending(*index).is_some_and(wants));
        let mut heir = None;
        for index in group {
            let Some(pending) = self.pending_mut(index) else {
                continue;
            };
            if wants(pending) {
                pending.follow(taker.unwrap_or(index), false);
            } else if pending.retry(is_straight) {
                match heir {
                    Some(heir) => pending.follow(heir, false),
                    None => heir = Some(index),
                }
            } else {
                let mismatch = check(pending.digest(), &digest);
                let reason = mismatch.map_or_else(Reason::from, |()| Refusal::Unwanted.into());
                pending.arrive(Err(reason));
            }
        }
        if let Some(taker) = taker.and_then(|taker| self.pending_mut(taker)) {
            taker.arrive(Ok(image));
        }
    }

    /// Ends a fetch, and those that wait for its bytes, without the module.
    pub(super) fn fail(&mut self, fetch: u8, reason: Reason<E::Buffer>) {
        if let Some(pending) = self.pending_mut(fetch) {
            pending.arrive(Err(reason));
        }
    }

    /// A fetch, and those that wait for its bytes.
    pub(super) fn group(&self, fetch: u8) -> Group {
        core::iter::once(fetch)
            .chain(self.followers(fetch))
            .take(FETCHES_MAX)
            .collect()
    }

    /// A fetch that has ended, and whose waiters can be served.
    pub(super) fn arrived(&self) -> Option<u8> {
        let mut all = self.all();
        all.find_map(|(index, f)| f.has_arrived().then_some(index))
    }

    /// Takes the fetches of a group, of which the first has [`arrived`](Self::arrived), and makes a module of the
    /// bytes. With `keep`, or if it was asked for by its digest, the module goes to the store.
    #[inline(never)]
    pub(super) fn take(
        &mut self,
        group: &Group,
        usage: Usage,
        keep: bool,
        engine: &mut E,
        spare: Spare<'_>,
    ) -> Arrival<E::Buffer> {
        let mut arrival = Arrival {
            location: heapless::String::new(),
            result: Err(Refusal::Unwanted.into()),
        };
        let mut keep = keep;
        let mut result = None;
        for index in group {
            let taken = self.fetches.get_mut(usize::from(*index));
            let Some(pending) = taken.and_then(Fetch::take) else {
                continue;
            };
            // The store is searched by a digest that a start names.
            keep |= pending.digest().is_some();
            if result.is_none() {
                // It has room for as much.
                let _ = write!(arrival.location, "{}", shorten(pending.location(), SHOWN));
                result = Some(pending.into_result());
            }
        }
        if let Some(result) = result {
            arrival.result =
                result.and_then(|image| self.take_image(image, usage, keep, engine, spare));
        }
        arrival
    }

    /// The reason for which one who waits gives up, after `seconds`.
    pub(super) fn late(&self, fetch: u8, seconds: u64, engine: &E) -> Reason<E::Buffer> {
        let Some(fetch) = self.pending(fetch) else {
            return Refusal::Unwanted.into();
        };
        let leader = fetch.leader().and_then(|leader| self.pending(leader));
        let (count, total) = leader.unwrap_or(fetch).progress();
        let app = shorten(fetch.location(), SHOWN);
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

    /// The module with this digest, from the table or the store; one use of it is the caller's.
    ///
    /// # Errors
    /// It is stored, and can't be loaded.
    pub(super) fn recall(
        &mut self,
        digest: &Digest,
        usage: Usage,
        engine: &mut E,
        spare: Spare<'_>,
    ) -> Result<Option<ModuleId>, Reason<E::Buffer>> {
        if let Some(known) = self.find(digest) {
            return Ok(Some(known));
        }
        let stored = self.store.as_deref_mut().and_then(|s| s.module_len(digest));
        let Some(len) = stored else {
            return Ok(None);
        };
        self.make_room(len, Purpose::ModuleBytes, engine, spare)?;
        let mut bytes = engine.allocate(len)?;
        let Some((len, provenance)) = self.read(digest, &mut bytes) else {
            return Ok(None);
        };
        engine.resize(&mut bytes, len)?;
        let image = Image { bytes, provenance };
        self.check_signature(&image)?;
        self.load(image, usage, engine, spare).map(Some)
    }

    /// Reads a module from the store and verifies it: returns the number of its bytes, and the digests of the whole. One
    /// that is damaged is removed.
    fn read(&mut self, expected: &Digest, into: &mut [u8]) -> Option<(usize, Provenance)> {
        let store = self.store.as_deref_mut()?;
        let reason = match store.read_module(expected, into) {
            Ok(()) => match unseal(into, expected) {
                None => text(format_args!("its bytes have changed")),
                unsealed => return unsealed,
            },
            Err(reason) => reason,
        };
        let hex = to_hex(expected);
        log::error!("module sha256:{hex} in the store is damaged: {reason}; it is removed");
        if let Err(reason) = store.remove_module(expected) {
            log::error!("module sha256:{hex} can't be removed: {reason}");
        }
        None
    }

    /// Whether the store has this module, or there is no store.
    fn is_stored(&mut self, digest: &Digest) -> bool {
        let store = self.store.as_deref_mut();
        store.is_none_or(|store| store.module_len(digest).is_some())
    }

    /// Stores a module, as far as that is possible.
    fn keep(&mut self, image: &Image<E::Buffer>) {
        let digest = &image.provenance.digest;
        if let Some(store) = self.store.as_deref_mut()
            && let Err(reason) = store.write_module(digest, &image.bytes, &seal(image))
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

    /// The store, if there is one.
    pub(super) fn store(&mut self) -> Option<&mut (dyn Store + 'a)> {
        self.store.as_deref_mut()
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

/// Frees the message that is being read while `need` bytes do not fit but could.
fn give_way<E: Engine>(incoming: &mut Incoming<E::Buffer>, need: usize, engine: &E) {
    let lacks = |arena: ArenaUsage| need > arena.available() && need <= arena.total;
    if lacks(engine.arena()) {
        incoming.give_way();
    }
}

#[cfg(test)]
impl<E: Engine> Modules<'_, E> {
    /// Those who wait for the fetch at `index`, if there is one.
    pub(super) fn waiters(&self, index: u8) -> Option<usize> {
        self.pending(index).map(|f| f.waiters.into())
    }
}
