//! Streams and events: when queued work runs.
//!
//! Work runs when it is queued, which is one of the orders that CUDA allows, and the one in which an error stands at the
//! call that caused it. With `VICUGNA_EMULATED_STREAMS=late` it runs when something waits for it and no sooner, which
//! is another: a program that forgets to wait, or to let one stream wait for another, then gets wrong results.

use crate::machine::Machine;
use crate::status::Result;
use std::collections::VecDeque;
use std::time::Instant;

/// Something a stream has still to do.
type Work = Box<dyn FnOnce(&mut Machine) -> Result + Send>;

/// A flag of streams: the stream does not wait for the null stream, nor that for it.
pub const NON_BLOCKING: u32 = 1;

pub struct Stream {
    pub flags: u32,
    pub priority: i32,
    /// Work and its place in the order in which all work was queued.
    queue: VecDeque<(u64, Work)>,
}

impl Stream {
    pub fn new(flags: u32, priority: i32) -> Self {
        Self { flags, priority, queue: VecDeque::new() }
    }
}

/// Where an event was last recorded.
#[derive(Debug, Clone, Copy)]
pub struct Recorded {
    stream: u64,
    ticket: u64,
    /// When the stream got there.
    pub at: Option<Instant>,
}

#[derive(Debug)]
pub struct Event {
    pub flags: u32,
    pub recorded: Option<Recorded>,
}

/// Whether this is one of CUDA's names for the null stream, of which each thread's own is one here.
pub fn is_null(stream: u64) -> bool {
    stream <= 2
}

impl Machine {
    /// Gives a stream work to do after all that it was given before.
    pub fn enqueue(
        &mut self,
        context: u64,
        stream: u64,
        work: impl FnOnce(&mut Self) -> Result + Send + 'static,
    ) -> Result {
        let ticket = self.next_ticket();
        self.enqueue_at(ticket, context, stream, Box::new(work))
    }

    fn next_ticket(&mut self) -> u64 {
        self.tickets += 1;
        self.tickets
    }

    fn enqueue_at(&mut self, ticket: u64, context: u64, stream: u64, work: Work) -> Result {
        if is_null(stream) {
            self.settle_blocking()?;
            return self.run(context, work);
        }
        let owner = self.streams.context(stream)?;
        if self.late {
            self.streams.get_mut(stream)?.queue.push_back((ticket, work));
            return Ok(());
        }
        self.run(owner, work)
    }

    /// Runs work, and notes in its context what the context does not survive.
    fn run(&mut self, context: u64, work: Work) -> Result {
        self.check(context)?;
        let result = work(self);
        if let Err(failure) = &result
            && failure.status.is_lasting()
        {
            self.contexts.get_mut(context)?.fault = Some(failure.clone());
        }
        result
    }

    /// Runs what a stream was given up to a ticket.
    fn settle_to(&mut self, stream: u64, last: u64) -> Result {
        while let Ok(item) = self.streams.get_mut(stream)
            && item.queue.front().is_some_and(|(ticket, _)| *ticket <= last)
            && let Some((_, work)) = item.queue.pop_front()
        {
            let context = self.streams.context(stream)?;
            self.run(context, work)?;
        }
        Ok(())
    }

    /// Runs all that a stream was given.
    pub fn settle(&mut self, stream: u64) -> Result {
        if is_null(stream) {
            return self.settle_blocking();
        }
        self.streams.get(stream)?;
        self.settle_to(stream, u64::MAX)
    }

    /// Runs all that the streams were given that the null stream waits for.
    pub fn settle_blocking(&mut self) -> Result {
        let blocking = |stream: &Stream| stream.flags & NON_BLOCKING == 0;
        let streams: Vec<u64> =
            self.streams.iter().filter(|(_, stream)| blocking(stream)).map(|(handle, _)| handle).collect();
        streams.into_iter().try_for_each(|stream| self.settle_to(stream, u64::MAX))
    }

    /// Runs all work of all streams.
    pub fn settle_all(&mut self) -> Result {
        self.streams.handles().into_iter().try_for_each(|stream| self.settle_to(stream, u64::MAX))
    }

    /// Runs all work of a context's streams.
    pub fn settle_context(&mut self, context: u64) -> Result {
        self.streams.handles_of(context).into_iter().try_for_each(|stream| self.settle_to(stream, u64::MAX))
    }

    /// Notes in an event where a stream is now.
    pub fn record(&mut self, context: u64, event: u64, stream: u64) -> Result {
        let ticket = self.next_ticket();
        self.events.get_mut(event)?.recorded = Some(Recorded { stream, ticket, at: None });
        let note = move |machine: &mut Self| {
            if let Ok(event) = machine.events.get_mut(event)
                && let Some(recorded) = event.recorded.as_mut().filter(|recorded| recorded.ticket == ticket)
            {
                recorded.at = Some(Instant::now());
            }
            Ok(())
        };
        self.enqueue_at(ticket, context, stream, Box::new(note))
    }

    /// Makes a stream wait for what an event noted last.
    pub fn wait(&mut self, context: u64, stream: u64, event: u64) -> Result {
        let Some(recorded) = self.events.get(event)?.recorded else { return Ok(()) };
        self.enqueue(context, stream, move |machine| machine.settle_to(recorded.stream, recorded.ticket))
    }

    /// Runs all that an event's last record waits for.
    pub fn settle_event(&mut self, event: u64) -> Result {
        let Some(recorded) = self.events.get(event)?.recorded else { return Ok(()) };
        self.settle_to(recorded.stream, recorded.ticket)
    }
}
