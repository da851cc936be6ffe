//! File servers with a real Directory: what a write promises, what is refused, and what happens when servers come and go.

mod busy;
mod damage;
mod failures;
mod full_disks;
mod moves;
mod refusals;
mod retries;
mod settling;
mod stalls;
mod writes;
