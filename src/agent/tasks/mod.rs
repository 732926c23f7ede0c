//! The tasks and the latent deployments: how their records are stored, found and waited for. Nothing
//! else knows that.
//!
//! A slot has 16 bytes of static memory on a 32-bit target. A task's record is one block of the
//! arena, from its start to its report. No operation depends on the number of slots or of tasks, but
//! for the heaps, by the logarithm; tasks are found by a hash of their ids.

mod record;

pub(super) use record::{
    Deployed, DeploymentRecord, NEVER, Stop, StopReason, TaskKind, TaskRecord, TaskState, Texts,
    take_reason,
};

use crate::{
    agent::{
        gathering::{Gathering, Service},
        noting::Noting,
        reason::{Reason, Refusal},
    },
    collections::{
        chain::Chains,
        hash::hash,
        heap::{ABSENT, Heap as _},
        list::{Linked, Links, List},
    },
    config::FETCHES_MAX,
    engine::{Engine, ModuleId, Record as _, RunUsage, Slot},
    task::monitor::Monitor,
    time::{Duration, Instant},
    wire::{Error, MonitoringProfile},
};
use core::fmt;
use record::{Layout, Task};

/// Stands for no slot and no deployment.
const NONE: u16 = crate::collections::chain::END;

/// Memory of one slot.
pub struct TaskSlot<E: Engine> {
    entry: Entry<E>,
    /// The first task of those whose hash is this slot's.
    bucket: u16,
    /// An entry of each heap.
    heaps: [u16; 2],
}

enum Entry<E: Engine> {
    /// With the next free slot.
    Free(u16),
    Taken(TaskRecord<E>),
}

impl<E: Engine> TaskSlot<E> {
    /// A free slot.
    pub const FREE: Self = Self {
        entry: Entry::Free(NONE),
        bucket: NONE,
        heaps: [NONE; 2],
    };
}

impl<E: Engine> fmt::Debug for TaskSlot<E> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let is_taken = matches!(self.entry, Entry::Taken(_));
        f.debug_struct("TaskSlot")
            .field("is_taken", &is_taken)
            .finish_non_exhaustive()
    }
}

/// Memory of one latent deployment.
pub struct DeploymentSlot<E: Engine> {
    record: Option<DeploymentRecord<E>>,
    /// The first deployment of those whose hash is this slot's.
    bucket: u16,
}

impl<E: Engine> DeploymentSlot<E> {
    /// A free one.
    pub const FREE: Self = Self {
        record: None,
        bucket: NONE,
    };
}

impl<E: Engine> fmt::Debug for DeploymentSlot<E> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("DeploymentSlot")
            .field("is_taken", &self.record.is_some())
            .finish_non_exhaustive()
    }
}

/// The slots, and the two heaps and the lists that lead through them.
struct Slots<'a, E: Engine> {
    slots: &'a mut [TaskSlot<E>],
    /// Entries of each heap.
    counts: [u16; 2],
    /// Time from a start to the moment at which its task is noted, if tasks are.
    note_after: Option<Duration>,
}

impl<E: Engine> Slots<'_, E> {
    fn get(&self, slot: u16) -> Option<&TaskRecord<E>> {
        match &self.slots.get(usize::from(slot))?.entry {
            Entry::Taken(record) => Some(record),
            Entry::Free(_) => None,
        }
    }

    fn get_mut(&mut self, slot: u16) -> Option<&mut TaskRecord<E>> {
        match &mut self.slots.get_mut(usize::from(slot))?.entry {
            Entry::Taken(record) => Some(record),
            Entry::Free(_) => None,
        }
    }

    /// The task that is the first in a heap.
    fn earliest(&self, order: Order) -> Option<u16> {
        let order = order as usize;
        (self.counts[order] > 0).then(|| self.slots[0].heaps[order])
    }

    /// When a task is noted, if it is yet to be.
    fn note_at(&self, record: &TaskRecord<E>) -> Option<Instant> {
        let task = record.task();
        let is_awaited = task.noting == Noting::AWAITED;
        self.note_after
            .filter(|_| is_awaited)
            .map(|after| task.received + after)
    }

    /// When a task is to be looked at: for its state, or to be noted.
    fn due(&self, record: &TaskRecord<E>) -> Option<Instant> {
        let both = [record.state().until(), self.note_at(record)];
        both.into_iter().flatten().min()
    }

    /// The record of a slot that is taken, as those that are linked are.
    fn record(&self, slot: u16) -> &TaskRecord<E> {
        self.get(slot).expect("the slot is taken")
    }

    fn record_mut(&mut self, slot: u16) -> &mut TaskRecord<E> {
        self.get_mut(slot).expect("the slot is taken")
    }
}

impl<E: Engine> Chains for Slots<'_, E> {
    fn first(&mut self, bucket: usize) -> &mut u16 {
        &mut self.slots[bucket].bucket
    }

    fn next(&mut self, item: u16) -> &mut u16 {
        &mut self.record_mut(item).task_mut().chain
    }
}

impl<E: Engine> Chains for [DeploymentSlot<E>] {
    fn first(&mut self, bucket: usize) -> &mut u16 {
        &mut self[bucket].bucket
    }

    fn next(&mut self, item: u16) -> &mut u16 {
        let record = self[usize::from(item)].record.as_mut();
        &mut record.expect("the place is taken").0.value_mut().chain
    }
}

impl<E: Engine> Linked for Slots<'_, E> {
    fn links(&mut self, slot: u16) -> &mut Links {
        &mut self.record_mut(slot).task_mut().links
    }
}

/// Order of a heap of tasks.
#[derive(Clone, Copy)]
enum Order {
    /// When they are to be looked at.
    Deadline,
    /// The next sample, of the monitored ones that run.
    Sample,
}

/// One of the two heaps of tasks.
struct By<'s, 'a, E: Engine>(&'s mut Slots<'a, E>, Order);

impl<E: Engine> crate::collections::heap::Heap for By<'_, '_, E> {
    fn key(&self, item: u16) -> u64 {
        let record = self.0.record(item);
        let at = match self.1 {
            Order::Deadline => self.0.due(record),
            Order::Sample => record.monitor().and_then(Monitor::next),
        };
        at.map_or(u64::MAX, Instant::as_millis)
    }

    fn position(&self, item: u16) -> u16 {
        let record = self.0.record(item);
        match self.1 {
            Order::Deadline => record.task().deadline,
            Order::Sample => record.monitored().map_or(ABSENT, |head| head.sample),
        }
    }

    fn set_position(&mut self, item: u16, position: u16) {
        let record = self.0.record_mut(item);
        match self.1 {
            Order::Deadline => record.task_mut().deadline = position,
            Order::Sample => {
                if let Some(head) = record.monitored_mut() {
                    head.sample = position;
                }
            }
        }
    }

    fn entry(&self, position: u16) -> u16 {
        self.0.slots[usize::from(position)].heaps[self.1 as usize]
    }

    fn set_entry(&mut self, position: u16, item: u16) {
        self.0.slots[usize::from(position)].heaps[self.1 as usize] = item;
    }

    fn count(&self) -> u16 {
        self.0.counts[self.1 as usize]
    }

    fn set_count(&mut self, count: u16) {
        self.0.counts[self.1 as usize] = count;
    }
}

/// The owner of all records.
pub(super) struct Tasks<'a, E: Engine> {
    slots: Slots<'a, E>,
    deployments: &'a mut [DeploymentSlot<E>],
    /// The first free slot.
    free: u16,
    taken: u16,
    running: u16,
    /// Tasks that wait for their module or their round's data.
    waiting: u16,
    overdue: u16,
    /// Deployments that wait for their module.
    deploying: u16,
    /// Deployments that can be invoked.
    ready: u16,
    /// Deployments whose failure is to be reported.
    failed: u16,
    /// Tasks that wait for each module that is on its way.
    fetching: [List; FETCHES_MAX],
    /// Tasks whose round has an exchange due.
    dues: List,
    /// Tasks that wait for room in the outbox.
    reports: List,
}

impl<E: Engine> fmt::Debug for Tasks<'_, E> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Tasks")
            .field("slots", &self.capacity())
            .field("taken", &self.taken)
            .field("running", &self.running)
            .finish_non_exhaustive()
    }
}

/// Index of the bucket of `key`, of as many as there are.
fn bucket(key: &str, count: usize) -> usize {
    hash(&[key.as_bytes()]) as usize % count.max(1)
}

impl<'a, E: Engine> Tasks<'a, E> {
    /// With the first 65,534 slots and the first 256 deployments, all of them free. Tasks are noted that long after
    /// their starts.
    pub(super) fn new(
        slots: &'a mut [TaskSlot<E>],
        deployments: &'a mut [DeploymentSlot<E>],
        note_after: Option<Duration>,
    ) -> Self {
        let count = slots.len().min(usize::from(NONE - 1));
        let slots = &mut slots[..count];
        // The last has no next; `count` is below NONE.
        for (index, slot) in slots.iter_mut().enumerate() {
            let next = if index + 1 < count {
                index as u16 + 1
            } else {
                NONE
            };
            *slot = TaskSlot {
                entry: Entry::Free(next),
                ..TaskSlot::FREE
            };
        }
        let deployments_max = deployments.len().min(256);
        let deployments = &mut deployments[..deployments_max];
        deployments.fill_with(|| DeploymentSlot::FREE);
        Self {
            free: if count > 0 { 0 } else { NONE },
            slots: Slots {
                slots,
                counts: [0; 2],
                note_after,
            },
            deployments,
            taken: 0,
            running: 0,
            waiting: 0,
            overdue: 0,
            deploying: 0,
            ready: 0,
            failed: 0,
            fetching: [List::EMPTY; FETCHES_MAX],
            dues: List::EMPTY,
            reports: List::EMPTY,
        }
    }

    /// Slots.
    pub(super) fn capacity(&self) -> usize {
        self.slots.slots.len()
    }

    /// Slots that are taken.
    pub(super) fn taken(&self) -> usize {
        self.taken.into()
    }

    /// Tasks whose guests run.
    pub(super) fn running(&self) -> usize {
        self.running.into()
    }

    /// Tasks and deployments that wait for their module or their round's data.
    pub(super) fn waiting(&self) -> usize {
        usize::from(self.waiting) + usize::from(self.deploying)
    }

    /// Tasks that run on, seconds after they were to end.
    pub(super) fn overdue(&self) -> usize {
        self.overdue.into()
    }

    /// All slots, each with its task, if it has one.
    pub(super) fn all(&self) -> impl Iterator<Item = (Slot, &TaskRecord<E>)> {
        let slots = (0..).map(Slot).zip(self.slots.slots.iter());
        slots.filter_map(|(slot, of)| match &of.entry {
            Entry::Taken(record) => Some((slot, record)),
            Entry::Free(_) => None,
        })
    }

    /// The task in a slot.
    pub(super) fn get(&self, slot: Slot) -> Option<&TaskRecord<E>> {
        self.slots.get(slot.0)
    }

    /// Its task's id; empty if it has none.
    pub(super) fn id(&self, slot: Slot) -> &str {
        self.get(slot).map_or("", TaskRecord::id)
    }

    /// Refuses a task that there is no slot for.
    ///
    /// # Errors
    /// All slots are taken.
    pub(super) fn check_vacancy(&self) -> Result<(), Refusal> {
        match self.free {
            // There are 65,534 at most.
            NONE => Err(Refusal::NoSlot(self.capacity() as u16)),
            _ => Ok(()),
        }
    }

    /// Arena bytes of a task's record.
    ///
    /// # Errors
    /// An id or a name that is too long.
    pub(super) fn record_bytes(
        texts: &Texts<'_>,
        profile: &MonitoringProfile,
    ) -> Result<usize, Error> {
        Layout::of(texts)?;
        let len = texts.len();
        Ok(match profile.exports() {
            false => E::record_bytes::<Task<E>>(len),
            true => E::record_bytes::<record::Monitored<E>>(len),
        })
    }

    /// Makes a record for a task, which has no slot yet.
    pub(super) fn record(
        engine: &E,
        texts: &Texts<'_>,
        kind: TaskKind,
        profile: MonitoringProfile,
        received: Instant,
    ) -> Result<TaskRecord<E>, Reason<E::Buffer>> {
        let layout = Layout::of(texts)?;
        let task = Task::new(received, TaskState::Accepted, kind, layout);
        TaskRecord::new(engine, task, texts, profile)
    }

    /// Puts a task in a free slot; gives it back if all are taken.
    pub(super) fn insert(&mut self, record: TaskRecord<E>) -> Result<Slot, TaskRecord<E>> {
        let slot = self.free;
        let bucket = record.key().map(|key| bucket(key, self.capacity()));
        let Some(of) = self.slots.slots.get_mut(usize::from(slot)) else {
            return Err(record);
        };
        let Entry::Free(next) = of.entry else {
            return Err(record);
        };
        of.entry = Entry::Taken(record);
        self.free = next;
        self.taken += 1;
        if let Some(bucket) = bucket {
            self.slots.add(bucket, slot);
        }
        Ok(Slot(slot))
    }

    /// Frees a slot, and gives out what it had.
    pub(super) fn remove(&mut self, slot: Slot) -> Option<TaskRecord<E>> {
        self.link(slot.0, false);
        self.unchain(slot.0);
        let of = self.slots.slots.get_mut(slot.index())?;
        match core::mem::replace(&mut of.entry, Entry::Free(self.free)) {
            Entry::Taken(record) => {
                self.free = slot.0;
                self.taken -= 1;
                Some(record)
            }
            free => {
                of.entry = free;
                None
            }
        }
    }

    fn unchain(&mut self, slot: u16) {
        let Some(record) = self.slots.get(slot) else {
            return;
        };
        if let Some(key) = record.key() {
            let bucket = bucket(key, self.capacity());
            self.slots.take_out(bucket, slot);
        }
    }

    fn find(&self, key: &str, is_it: impl Fn(&TaskRecord<E>) -> bool) -> Option<Slot> {
        let of = self.slots.slots.get(bucket(key, self.capacity()))?;
        let mut at = of.bucket;
        while at != NONE {
            let record = self.slots.record(at);
            if is_it(record) && record.key() == Some(key) {
                return Some(Slot(at));
            }
            at = record.task().chain;
        }
        None
    }

    /// The started task of this id that no stop has reached.
    pub(super) fn find_task(&self, id: &str) -> Option<Slot> {
        self.find(id, |record| {
            record.invocation().is_none() && !record.task().stopped
        })
    }

    /// The invocation of this id.
    pub(super) fn find_invocation(&self, id: &str) -> Option<Slot> {
        self.find(id, |record| record.invocation().is_some())
    }

    /// Puts a task in what its state has it in: heaps, a list, counts; or takes it out.
    fn link(&mut self, slot: u16, enters: bool) {
        let Some(record) = self.slots.get(slot) else {
            return;
        };
        let count = |of: &mut u16| *of = of.wrapping_add_signed(if enters { 1 } else { -1 });
        let has_deadline = self.slots.due(record).is_some();
        let mut is_sampled = false;
        let list = match record.state() {
            TaskState::Accepted | TaskState::Posting { is_due: false, .. } => None,
            TaskState::Fetching { fetch, .. } => {
                count(&mut self.waiting);
                Some(&mut self.fetching[usize::from(*fetch)])
            }
            TaskState::Gathering { gathering, .. } => {
                count(&mut self.waiting);
                gathering.value().due().map(|_| &mut self.dues)
            }
            TaskState::Running {
                stop, owes_success, ..
            } => {
                count(&mut self.running);
                if stop.is_some_and(|stop| stop.is_overdue) {
                    count(&mut self.overdue);
                }
                is_sampled = record.monitor().is_some();
                match owes_success {
                    true => Some(&mut self.reports),
                    false => list_of(self.deployments, record.task().kind),
                }
            }
            TaskState::Posting { .. } => Some(&mut self.dues),
            TaskState::Failed { .. } | TaskState::Posted { .. } => Some(&mut self.reports),
        };
        match list {
            Some(list) if enters => list.push_back(&mut self.slots, slot),
            Some(list) => list.remove(&mut self.slots, slot),
            None => {}
        }
        for (order, is_in) in [(Order::Deadline, has_deadline), (Order::Sample, is_sampled)] {
            match is_in {
                true if enters => By(&mut self.slots, order).insert(slot),
                true => By(&mut self.slots, order).remove(slot),
                false => {}
            }
        }
    }

    /// Changes the state of a task; returns the one before. [`TaskState::Accepted`] if there is no task.
    pub(super) fn set_state(&mut self, slot: Slot, state: TaskState<E>) -> TaskState<E> {
        self.change(slot, |task| core::mem::replace(task, state))
            .unwrap_or(TaskState::Accepted)
    }

    /// Changes what a task's state has; what follows from it follows.
    fn change<R>(&mut self, slot: Slot, change: impl FnOnce(&mut TaskState<E>) -> R) -> Option<R> {
        self.link(slot.0, false);
        let record = self.slots.get_mut(slot.0)?;
        let result = change(&mut record.task_mut().state);
        self.link(slot.0, true);
        Some(result)
    }

    /// Begins a task's samples anew, from `now` on. To be called before it runs.
    pub(super) fn begin_samples(&mut self, slot: Slot, now: Instant) {
        let record = self.slots.get_mut(slot.0);
        if let Some(head) = record.and_then(TaskRecord::monitored_mut) {
            head.monitor = Monitor::new(head.monitor.profile, now);
        }
    }

    /// Takes a sample of a task, if it is monitored.
    pub(super) fn sample(&mut self, slot: Slot, usage: &RunUsage, now: Instant) {
        let record = self.slots.get_mut(slot.0);
        if let Some(head) = record.and_then(TaskRecord::monitored_mut) {
            head.monitor.sample(usage, now);
            By(&mut self.slots, Order::Sample).update(slot.0);
        }
    }

    /// The task whose sample is due first, and when.
    pub(super) fn next_sample(&self) -> Option<(Slot, Instant)> {
        let slot = self.slots.earliest(Order::Sample)?;
        let next = self.slots.record(slot).monitor()?.next()?;
        Some((Slot(slot), next))
    }

    /// The task that is to be looked at first, and when.
    pub(super) fn next_deadline(&self) -> Option<(Slot, Instant)> {
        let slot = self.slots.earliest(Order::Deadline)?;
        Some((Slot(slot), self.slots.due(self.slots.record(slot))?))
    }

    /// The task that is to be looked at first, if it is to be noted by now.
    pub(super) fn next_to_note(&self, now: Instant) -> Option<Slot> {
        let slot = self.slots.earliest(Order::Deadline)?;
        let at = self.slots.note_at(self.slots.record(slot))?;
        (at <= now).then_some(Slot(slot))
    }

    /// Whether a task of this id is there that is in this note.
    pub(super) fn is_noted(&self, id: &str, note: u8) -> bool {
        let is_it = |record: &TaskRecord<E>| {
            record.invocation().is_none() && record.task().noting.note() == Some(note)
        };
        self.find(id, is_it).is_some()
    }

    /// Sets whether a task is noted, and where.
    pub(super) fn set_noting(&mut self, slot: Slot, noting: Noting) {
        By(&mut self.slots, Order::Deadline).remove(slot.0);
        let Some(record) = self.slots.get_mut(slot.0) else {
            return;
        };
        record.task_mut().noting = noting;
        if self.slots.due(self.slots.record(slot.0)).is_some() {
            By(&mut self.slots, Order::Deadline).insert(slot.0);
        }
    }

    /// Sets the stop of a task that runs, and when to look at it again.
    pub(super) fn set_stop(&mut self, slot: Slot, next: Option<Stop>, at: Option<Instant>) {
        self.change(slot, |state| {
            if let TaskState::Running { until, stop, .. } = state {
                (*until, *stop) = (at.unwrap_or(NEVER), next);
            }
        });
    }

    /// Notes that a stop command has come for a task.
    pub(super) fn set_stopped(&mut self, slot: Slot) {
        if let Some(record) = self.slots.get_mut(slot.0) {
            record.task_mut().stopped = true;
        }
    }

    /// Has the results of a daemon reported, as those of a task are.
    pub(super) fn report_daemon(&mut self, slot: Slot) {
        if let Some(record) = self.slots.get_mut(slot.0)
            && record.task().kind == TaskKind::Daemon
        {
            record.task_mut().kind = TaskKind::Task;
        }
    }

    /// A task's texts for its guest, and the bytes of its inputs and of its environment.
    pub(super) fn share(&mut self, slot: Slot) -> Option<(E::Bytes, (usize, usize))> {
        self.slots.get_mut(slot.0).map(TaskRecord::share)
    }

    /// The step of a task that gathers.
    pub(super) fn gathering(&self, slot: Slot) -> Option<&Gathering<E::Buffer>> {
        match self.get(slot)?.state() {
            TaskState::Gathering { gathering, .. } => Some(gathering.value()),
            _ => None,
        }
    }

    /// Begins a task's next step of gathering, which ends by a moment; nothing if it does not gather.
    pub(super) fn set_gathering(
        &mut self,
        slot: Slot,
        next: Gathering<E::Buffer>,
        latest: Instant,
    ) {
        self.change(slot, |state| {
            if let TaskState::Gathering {
                until, gathering, ..
            } = state
            {
                *until = latest;
                *gathering.value_mut() = next;
            }
        });
    }

    /// Ends the gathering of a task, which has its module still.
    pub(super) fn take_gathering(
        &mut self,
        slot: Slot,
    ) -> Option<(ModuleId, Gathering<E::Buffer>)> {
        self.gathering(slot)?;
        match self.set_state(slot, TaskState::Accepted) {
            TaskState::Gathering {
                module,
                mut gathering,
                ..
            } => {
                let taken = core::mem::replace(gathering.value_mut(), Gathering::Topic);
                Some((module, taken))
            }
            _ => None,
        }
    }

    /// The exchange that has been due for longest, given out once.
    pub(super) fn take_due(&mut self) -> Option<(Slot, Service)> {
        let slot = Slot(self.dues.first()?);
        let due = self.change(slot, |state| match state {
            TaskState::Gathering { gathering, .. } => gathering.value_mut().take_due(),
            TaskState::Posting { is_due, .. } => {
                core::mem::take(is_due).then_some(Service::Coordinator)
            }
            _ => None,
        });
        Some((slot, due.flatten()?))
    }

    /// The task that has waited longest for room in the outbox.
    pub(super) fn next_report(&self) -> Option<Slot> {
        self.reports.first().map(Slot)
    }

    /// Takes the success that a daemon owes; false if it owes none.
    pub(super) fn take_success(&mut self, slot: Slot) -> bool {
        let taken = self.change(slot, |state| match state {
            TaskState::Running { owes_success, .. } => core::mem::take(owes_success),
            _ => false,
        });
        taken.unwrap_or(false)
    }

    /// The first task that waits for a module on its way.
    pub(super) fn next_fetching(&self, fetch: usize) -> Option<Slot> {
        self.fetching.get(fetch)?.first().map(Slot)
    }

    /// Deployments that can be invoked.
    pub(super) fn ready(&self) -> usize {
        self.ready.into()
    }

    /// Deployments that there may be.
    pub(super) fn deployments_max(&self) -> usize {
        self.deployments.len()
    }

    /// The deployments there are.
    pub(super) fn deployments(&self) -> impl Iterator<Item = (u8, &DeploymentRecord<E>)> {
        let slots = (0..=u8::MAX).zip(self.deployments.iter());
        slots.filter_map(|(index, of)| Some((index, of.record.as_ref()?)))
    }

    /// A deployment.
    pub(super) fn deployment(&self, index: u8) -> Option<&DeploymentRecord<E>> {
        self.deployments.get(usize::from(index))?.record.as_ref()
    }

    /// The deployment of this id.
    pub(super) fn find_deployment(&self, id: &str) -> Option<u8> {
        let of = self.deployments.get(bucket(id, self.deployments.len()))?;
        let mut at = of.bucket;
        while let Some(record) = self.deployment_at(at) {
            if record.id() == id {
                return Some(at as u8);
            }
            at = record.head().chain;
        }
        None
    }

    fn deployment_at(&self, at: u16) -> Option<&DeploymentRecord<E>> {
        self.deployments.get(usize::from(at))?.record.as_ref()
    }

    /// A free place for a deployment.
    ///
    /// # Errors
    /// All places are taken.
    pub(super) fn vacant_deployment(&self) -> Result<u8, Refusal> {
        let mut all = (0..=u8::MAX).zip(self.deployments.iter());
        let vacant = all.find(|(_, of)| of.record.is_none());
        // There are 256 at most.
        let full = Refusal::NoDeployment(self.deployments.len() as u16);
        vacant.map(|(index, _)| index).ok_or(full)
    }

    /// Puts a deployment in a free place.
    pub(super) fn deploy(&mut self, index: u8, record: DeploymentRecord<E>) {
        let bucket = bucket(record.id(), self.deployments.len());
        self.count(record.state(), 1);
        self.deployments[usize::from(index)].record = Some(record);
        self.deployments.add(bucket, index.into());
    }

    /// Counts a deployment of this state, or one less.
    const fn count(&mut self, state: Deployed, change: i16) {
        match state {
            Deployed::Fetching { .. } => {
                self.deploying = self.deploying.wrapping_add_signed(change)
            }
            Deployed::Ready { .. } => self.ready = self.ready.wrapping_add_signed(change),
            Deployed::Failed => self.failed = self.failed.wrapping_add_signed(change),
            Deployed::WithoutModule => {}
        }
    }

    /// Changes the state of a deployment.
    pub(super) fn set_deployed(&mut self, index: u8, state: Deployed) {
        let of = self.deployments.get_mut(usize::from(index));
        if let Some(record) = of.and_then(|of| of.record.as_mut()) {
            let before = core::mem::replace(&mut record.0.value_mut().state, state);
            self.count(before, -1);
            self.count(state, 1);
        }
    }

    /// Ends a deployment whose report waits for room in the outbox.
    pub(super) fn fail_deployment(
        &mut self,
        index: u8,
        reason: Option<E::Record<Reason<E::Buffer>>>,
    ) {
        self.set_deployed(index, Deployed::Failed);
        let of = self.deployments.get_mut(usize::from(index));
        if let Some(record) = of.and_then(|of| of.record.as_mut()) {
            record.0.value_mut().reason = reason;
        }
    }

    /// A deployment whose report waits for room in the outbox. Looks at all deployments if there is one.
    pub(super) fn next_failed_deployment(&self) -> Option<u8> {
        if self.failed == 0 {
            return None;
        }
        let mut all = self.deployments();
        all.find(|(_, record)| record.state() == Deployed::Failed)
            .map(|(index, _)| index)
    }

    /// Takes an invocation off its deployment, one after the other.
    pub(super) fn detach_invocation(&mut self, index: u8) -> Option<Slot> {
        let list = list_of(self.deployments, TaskKind::Invocation(Some(index)))?;
        let slot = list.first()?;
        list.remove(&mut self.slots, slot);
        self.slots.record_mut(slot).task_mut().kind = TaskKind::Invocation(None);
        Some(Slot(slot))
    }

    /// Frees a deployment's place, and gives out what it had. Its invocations are detached.
    pub(super) fn undeploy(&mut self, index: u8) -> Option<DeploymentRecord<E>> {
        while self.detach_invocation(index).is_some() {}
        let bucket = bucket(self.deployment(index)?.id(), self.deployments.len());
        self.deployments.take_out(bucket, index.into());
        let record = self.deployments[usize::from(index)].record.take()?;
        self.count(record.state(), -1);
        Some(record)
    }

    /// The first deployment that waits for a module on its way. Looks at all deployments if some wait
    /// for one.
    pub(super) fn next_deploying(&self, fetch: usize) -> Option<u8> {
        if self.deploying == 0 {
            return None;
        }
        let waits = |state| matches!(state, Deployed::Fetching { fetch: of, .. } if usize::from(of) == fetch);
        let mut all = self.deployments();
        all.find(|(_, record)| waits(record.state()))
            .map(|(index, _)| index)
    }

    /// The deployment that gives up its wait first, and when. Looks at all deployments if some wait.
    pub(super) fn next_late_deployment(&self) -> Option<(u8, Instant)> {
        if self.deploying == 0 {
            return None;
        }
        let waits = self
            .deployments()
            .filter_map(|(index, record)| match record.state() {
                Deployed::Fetching { until, .. } => Some((index, until)),
                _ => None,
            });
        waits.min_by_key(|(_, until)| *until)
    }
}

/// The list of invocations that a run with this kind is in.
fn list_of<E: Engine>(deployments: &mut [DeploymentSlot<E>], kind: TaskKind) -> Option<&mut List> {
    let TaskKind::Invocation(Some(index)) = kind else {
        return None;
    };
    let record = deployments.get_mut(usize::from(index))?.record.as_mut()?;
    Some(&mut record.0.value_mut().invocations)
}

#[cfg(test)]
impl<E: Engine> Tasks<'_, E> {
    /// Holds all that is counted, linked and heaped against what the records say, by looking at all.
    pub(super) fn check(&self) {
        extern crate std;
        use std::{collections::BTreeSet, vec::Vec};

        let all: Vec<(u16, &TaskRecord<E>)> =
            self.all().map(|(slot, task)| (slot.0, task)).collect();
        let count =
            |is: fn(&TaskState<E>) -> bool| all.iter().filter(|(_, t)| is(t.state())).count();
        assert_eq!(self.taken(), all.len());
        let running = count(|s| matches!(s, TaskState::Running { .. }));
        assert_eq!(self.running(), running);
        let waits = |s: &TaskState<E>| {
            matches!(s, TaskState::Fetching { .. } | TaskState::Gathering { .. })
        };
        assert_eq!(usize::from(self.waiting), count(waits));
        assert_eq!(
            usize::from(self.overdue),
            count(|s| {
                let TaskState::Running { stop, .. } = s else {
                    return false;
                };
                stop.is_some_and(|stop| stop.is_overdue)
            })
        );
        // The free ones.
        let (mut free, mut at) = (0, self.free);
        while at != NONE {
            match self.slots.slots[usize::from(at)].entry {
                Entry::Free(next) => at = next,
                Entry::Taken(_) => panic!("slot {at} is not free"),
            }
            free += 1;
            assert!(free <= self.capacity());
        }
        assert_eq!(free + all.len(), self.capacity());
        // The chains.
        let mut chained = BTreeSet::new();
        for (index, slot) in self.slots.slots.iter().enumerate() {
            let mut at = slot.bucket;
            while at != NONE {
                let record = self.slots.record(at);
                assert_eq!(
                    record.key().map(|key| bucket(key, self.capacity())),
                    Some(index)
                );
                assert!(chained.insert(at));
                at = record.task().chain;
            }
        }
        assert_eq!(
            chained.len(),
            all.iter().filter(|(_, t)| t.key().is_some()).count()
        );
        // The heaps.
        let least = all.iter().filter_map(|(_, t)| self.slots.due(t)).min();
        assert_eq!(self.next_deadline().map(|(_, at)| at), least);
        let timed = all.iter().filter(|(_, t)| self.slots.due(t).is_some());
        assert_eq!(
            usize::from(self.slots.counts[Order::Deadline as usize]),
            timed.count()
        );
        let is_running = |t: &TaskRecord<E>| matches!(t.state(), TaskState::Running { .. });
        let samples = all.iter().filter(|(_, t)| is_running(t));
        let least = samples.filter_map(|(_, t)| t.monitor()?.next()).min();
        assert_eq!(self.next_sample().map(|(_, at)| at), least);
        // The lists.
        let links = |slot| self.slots.record(slot).task().links;
        let sorted = |list: &List| {
            let mut all = list.all(links);
            all.sort_unstable();
            all
        };
        let of = |is: &dyn Fn(&TaskRecord<E>) -> bool| -> Vec<u16> {
            all.iter()
                .filter(|(_, t)| is(t))
                .map(|(slot, _)| *slot)
                .collect()
        };
        for (index, list) in self.fetching.iter().enumerate() {
            let waits = |t: &TaskRecord<E>| matches!(t.state(), TaskState::Fetching { fetch, .. } if usize::from(*fetch) == index);
            assert_eq!(sorted(list), of(&waits));
        }
        let due = |t: &TaskRecord<E>| match t.state() {
            TaskState::Gathering { gathering, .. } => gathering.value().due().is_some(),
            TaskState::Posting { is_due, .. } => *is_due,
            _ => false,
        };
        assert_eq!(sorted(&self.dues), of(&due));
        let reports = |t: &TaskRecord<E>| {
            matches!(
                t.state(),
                TaskState::Failed { .. }
                    | TaskState::Posted { .. }
                    | TaskState::Running {
                        owes_success: true,
                        ..
                    }
            )
        };
        assert_eq!(sorted(&self.reports), of(&reports));
        for (index, deployment) in self.deployments() {
            let its = |t: &TaskRecord<E>| {
                t.task().kind == TaskKind::Invocation(Some(index)) && is_running(t)
            };
            assert_eq!(sorted(&deployment.head().invocations), of(&its));
            assert_eq!(self.find_deployment(deployment.id()), Some(index));
        }
        for (_, task) in &all {
            if let TaskKind::Invocation(Some(index)) = task.task().kind {
                assert_eq!(self.deployment(index).map(|d| d.id()), Some(task.id()));
            }
        }
        let states =
            |is: fn(Deployed) -> bool| self.deployments().filter(|(_, d)| is(d.state())).count();
        assert_eq!(
            usize::from(self.ready),
            states(|s| matches!(s, Deployed::Ready { .. }))
        );
        assert_eq!(
            usize::from(self.deploying),
            states(|s| matches!(s, Deployed::Fetching { .. }))
        );
    }
}
