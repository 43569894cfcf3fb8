//! A warp: where its lanes stand.
//!
//! Lanes that stand at one place run together. The group at the lowest place runs first, so that groups meet again where
//! their paths join; a group that needs lanes which are elsewhere is parked until they arrive.

use super::copy::Copies;
use super::local::Local;
use super::registers::Registers;

/// Lanes that stand at one place.
#[derive(Debug, Clone, Copy)]
struct Group {
    pc: u32,
    mask: u32,
}

/// Lanes that wait at a collective for others.
#[derive(Debug, Clone, Copy)]
struct Parked {
    group: Group,
    /// The lanes that had not exited, and what the warp had done, when these were parked.
    live: u32,
    effects: u64,
}

/// What a warp is doing.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum State {
    Ready,
    /// At a barrier of the block.
    Waiting,
    Done,
}

/// Whether the lanes that a collective needs are there.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Gathered {
    Here,
    /// They may still come: other lanes run now.
    Parked,
    /// They are elsewhere, and nobody moves.
    Never,
    /// Lanes that were waited for did other work and exited.
    PassedBy,
}

pub(super) struct Warp {
    pub number: u32,
    pub registers: Registers,
    pub state: State,
    /// Where the running lanes stand.
    pub pc: u32,
    /// The lanes that run.
    pub active: u32,
    /// The lanes that have not exited.
    pub live: u32,
    /// The lowest place of the lanes that could run.
    pub next_ready: u32,
    ready: Vec<Group>,
    parked: Vec<Parked>,
    /// Lanes that the running lanes waited for did other work and exited.
    passed_by: bool,
    /// How many memory instructions ran.
    pub effects: u64,
    pub copies: Copies,
    pub local: Local,
}

impl Warp {
    pub fn new(number: u32, live: u32, registers: Registers, local: Local) -> Self {
        Self {
            number,
            registers,
            state: State::Ready,
            pc: 0,
            active: live,
            live,
            next_ready: u32::MAX,
            ready: Vec::new(),
            parked: Vec::new(),
            passed_by: false,
            effects: 0,
            copies: Copies::default(),
            local,
        }
    }

    /// Lanes of `mask` go to `target`, other running lanes go on.
    #[inline]
    pub fn jump(&mut self, mask: u32, target: u32) {
        if mask == self.active {
            self.pc = target;
            return;
        }
        if mask != 0 {
            self.active &= !mask;
            self.make_ready(target, mask);
        }
        self.pc += 1;
    }

    /// Running lanes outside of `mask` go on; those in it stay.
    pub fn separate(&mut self, mask: u32) {
        let others = self.active & !mask;
        if others != 0 {
            self.active = mask;
            self.make_ready(self.pc + 1, others);
        }
    }

    /// Lanes that do not run now but can, at a place.
    pub fn make_ready(&mut self, pc: u32, mask: u32) {
        self.ready.push(Group { pc, mask });
        self.next_ready = self.next_ready.min(pc);
    }

    /// Runs the group at the lowest place, joined by all that stand there.
    #[cold]
    pub fn reschedule(&mut self) {
        if self.active != 0 {
            self.ready.push(Group { pc: self.pc, mask: self.active });
        }
        let lowest = self.ready.iter().map(|group| group.pc).min();
        let Some(pc) = lowest else { return self.resume() };
        self.pc = pc;
        self.active = 0;
        let active = &mut self.active;
        self.ready.retain(|group| {
            *active |= if group.pc == pc { group.mask } else { 0 };
            group.pc != pc
        });
        self.next_ready = self.ready.iter().map(|group| group.pc).min().unwrap_or(u32::MAX);
    }

    /// Nobody else can run: parked lanes try again, for those they waited for may have exited.
    fn resume(&mut self) {
        match self.parked.iter().map(|parked| parked.group.pc).min() {
            Some(pc) => {
                self.pc = pc;
                self.absorb();
            }
            None => self.state = State::Done,
        }
    }

    /// The running lanes are joined by those that are parked where they stand.
    pub fn absorb(&mut self) {
        if self.parked.is_empty() {
            return;
        }
        let (pc, live, effects) = (self.pc, self.live, self.effects);
        let (active, passed_by) = (&mut self.active, &mut self.passed_by);
        self.parked.retain(|parked| {
            let here = parked.group.pc == pc;
            if here {
                *active |= parked.group.mask;
                *passed_by |= parked.live != live && parked.effects != effects;
            }
            !here
        });
    }

    /// The running lanes in `mask` exit, the others go on.
    pub fn exit(&mut self, mask: u32) {
        self.live &= !mask;
        self.active &= !mask;
        self.pc += 1;
        if self.active == 0 {
            self.reschedule();
        }
    }

    /// Whether the lanes of `required` are at the running lanes' place; if they may still come, these are parked.
    pub fn gather(&mut self, required: u32) -> Gathered {
        let passed_by = std::mem::take(&mut self.passed_by);
        if required & self.live & !self.active == 0 {
            return if passed_by { Gathered::PassedBy } else { Gathered::Here };
        }
        if self.ready.is_empty() {
            return Gathered::Never;
        }
        let group = Group { pc: self.pc, mask: self.active };
        self.parked.push(Parked { group, live: self.live, effects: self.effects });
        self.active = 0;
        self.reschedule();
        Gathered::Parked
    }

    /// Where parked lanes stand.
    pub fn parked_places(&self) -> impl Iterator<Item = u32> + '_ {
        self.parked.iter().map(|parked| parked.group.pc)
    }

    /// All parked lanes go on past where they wait.
    pub fn release_parked(&mut self) {
        for parked in std::mem::take(&mut self.parked) {
            self.make_ready(parked.group.pc + 1, parked.group.mask);
        }
    }
}
