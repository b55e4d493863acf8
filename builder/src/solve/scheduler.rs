//! Runs tasks in parallel, each after those it depends on. Knows nothing of what a task is.

use std::collections::HashMap;
use std::sync::{Condvar, Mutex, PoisonError};

/// One task.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Task {
    /// Its name to the caller; unique.
    pub id: usize,
    /// The tasks that must have ended well before it begins. Names that are no task count as done.
    pub after: Vec<usize>,
}

struct State<E> {
    ready: Vec<usize>,
    waiting: HashMap<usize, usize>,
    unfinished: usize,
    error: Option<E>,
}

/// How tasks are run.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Run {
    /// At a time.
    pub jobs: usize,
    /// After an error, finish what does not depend on the task that failed.
    pub keep_going: bool,
}

/// Runs all tasks. After the first error `stop` is called, no further task begins, those that run are waited for, and the
/// error is returned. To keep going is not to stop: only what depends on the task that failed does not begin.
///
/// Tasks become ready in the order of the list; a cycle leaves its tasks unrun, which the graph's construction
/// excludes.
pub fn run<E: Send>(
    tasks: &[Task],
    run: Run,
    execute: impl Fn(usize) -> Result<(), E> + Sync,
    stop: impl Fn() + Sync,
) -> Result<(), E> {
    let known: HashMap<usize, usize> = tasks.iter().enumerate().map(|(place, task)| (task.id, place)).collect();
    let mut dependents: Vec<Vec<usize>> = vec![Vec::new(); tasks.len()];
    let mut waiting = HashMap::new();
    for (place, task) in tasks.iter().enumerate() {
        let inputs: Vec<usize> = task.after.iter().filter_map(|id| known.get(id)).copied().collect();
        waiting.insert(place, inputs.len());
        for input in inputs {
            dependents[input].push(place);
        }
    }
    let ready = (0..tasks.len()).rev().filter(|place| waiting[place] == 0).collect();
    let state = Mutex::new(State { ready, waiting, unfinished: tasks.len(), error: None });
    let changed = Condvar::new();
    let work = || {
        while let Some(place) = next(&state, &changed, run.keep_going) {
            let result = execute(tasks[place].id);
            if finish(&state, &changed, (place, &dependents), result) && !run.keep_going {
                stop();
            }
        }
    };
    // The caller's own thread does its part.
    std::thread::scope(|scope| {
        for _ in 1..run.jobs.min(tasks.len()) {
            scope.spawn(work);
        }
        work();
    });
    state.into_inner().unwrap_or_else(PoisonError::into_inner).error.map_or(Ok(()), Err)
}

/// Waits for a task that may begin; none when all have ended or one has failed.
fn next<E>(state: &Mutex<State<E>>, changed: &Condvar, keep_going: bool) -> Option<usize> {
    let mut state = state.lock().unwrap_or_else(PoisonError::into_inner);
    loop {
        if state.error.is_some() && !keep_going || state.unfinished == 0 {
            return None;
        }
        if let Some(place) = state.ready.pop() {
            return Some(place);
        }
        state = changed.wait(state).unwrap_or_else(PoisonError::into_inner);
    }
}

/// Notes how a task ended; says whether it is the first that failed.
fn finish<E>(
    state: &Mutex<State<E>>,
    changed: &Condvar,
    (place, dependents): (usize, &[Vec<usize>]),
    result: Result<(), E>,
) -> bool {
    let mut state = state.lock().unwrap_or_else(PoisonError::into_inner);
    state.unfinished -= 1;
    let first_failure = result.is_err() && state.error.is_none();
    match result {
        Ok(()) => {
            for dependent in dependents[place].iter().rev() {
                // What depends on a failure is not waiting any more.
                let Some(left) = state.waiting.get_mut(dependent) else { continue };
                *left -= 1;
                if *left == 0 {
                    state.ready.push(*dependent);
                }
            }
        }
        Err(error) => {
            state.error.get_or_insert(error);
            let mut lost = dependents[place].clone();
            while let Some(dependent) = lost.pop() {
                if state.waiting.remove(&dependent).is_some() {
                    state.unfinished -= 1;
                    lost.extend(&dependents[dependent]);
                }
            }
        }
    }
    // Whoever finished a task takes one itself: to wake another for the only one there is takes longer than most tasks do
    // to begin.
    if state.ready.len() > 1 || state.unfinished == 0 || state.error.is_some() {
        changed.notify_all();
    }
    first_failure
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicUsize, Ordering};
    use std::time::{Duration, Instant};

    use super::*;

    fn task(id: usize, after: &[usize]) -> Task {
        Task { id, after: after.to_vec() }
    }

    fn jobs(jobs: usize) -> Run {
        Run { jobs, keep_going: false }
    }

    #[test]
    fn keeping_going_leaves_out_what_depends_on_the_failure_alone() {
        let ran = Mutex::new(Vec::new());
        let tasks = [task(0, &[]), task(1, &[0]), task(2, &[1, 4]), task(3, &[]), task(4, &[3])];
        let result = run(
            &tasks,
            Run { jobs: 2, keep_going: true },
            |id| {
                ran.lock().unwrap().push(id);
                if id == 0 { Err("no") } else { Ok(()) }
            },
            || panic!("nothing is stopped"),
        );
        let mut ran = ran.into_inner().unwrap();
        ran.sort_unstable();
        assert_eq!((result, ran), (Err("no"), vec![0, 3, 4]));
    }

    #[test]
    fn inputs_end_before_their_dependents_begin() {
        let order = Mutex::new(Vec::new());
        let tasks = [task(1, &[]), task(2, &[1]), task(3, &[1]), task(4, &[2, 3, 99])];
        run::<()>(
            &tasks,
            jobs(4),
            |id| {
                order.lock().unwrap().push(id);
                Ok(())
            },
            || (),
        )
        .unwrap();
        let order = order.into_inner().unwrap();
        assert_eq!((order[0], order[3]), (1, 4));
    }

    #[test]
    fn independent_tasks_overlap() {
        let (running, most) = (AtomicUsize::new(0), AtomicUsize::new(0));
        run::<()>(
            &[task(0, &[]), task(1, &[])],
            jobs(2),
            |_| {
                most.fetch_max(running.fetch_add(1, Ordering::SeqCst) + 1, Ordering::SeqCst);
                let begun = Instant::now();
                while most.load(Ordering::SeqCst) < 2 && begun.elapsed() < Duration::from_secs(10) {
                    std::thread::yield_now();
                }
                running.fetch_sub(1, Ordering::SeqCst);
                Ok(())
            },
            || (),
        )
        .unwrap();
        assert_eq!(most.into_inner(), 2);
    }

    #[test]
    fn a_failure_stops_what_depends_on_it_and_is_returned() {
        let (ran, stopped) = (AtomicUsize::new(0), AtomicUsize::new(0));
        let tasks = [task(0, &[]), task(1, &[0]), task(2, &[1])];
        let result = run(
            &tasks,
            jobs(2),
            |id| {
                ran.fetch_add(1, Ordering::SeqCst);
                if id == 1 { Err("no") } else { Ok(()) }
            },
            || _ = stopped.fetch_add(1, Ordering::SeqCst),
        );
        assert_eq!((result, ran.into_inner(), stopped.into_inner()), (Err("no"), 2, 1));
    }

    #[test]
    fn ten_thousand_tasks_are_no_burden() {
        let tasks: Vec<Task> = (0..10_000).map(|id| task(id, if id == 0 { &[] } else { &[0] })).collect();
        let (ran, begun) = (AtomicUsize::new(0), Instant::now());
        run::<()>(
            &tasks,
            jobs(4),
            |_| {
                ran.fetch_add(1, Ordering::SeqCst);
                Ok(())
            },
            || (),
        )
        .unwrap();
        assert_eq!(ran.into_inner(), 10_000);
        // A hundredth of it on an idle machine; what is quadratic takes longer on any.
        assert!(begun.elapsed() < Duration::from_secs(10), "{:?}", begun.elapsed());
    }
}
