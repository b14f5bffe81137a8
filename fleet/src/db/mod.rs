//! The fleet database: SQLite in WAL mode with synchronous=FULL, one writer thread per controller.
//!
//! What the controller has promised (a generation, an enrolment) is on disk before anybody hears of it. Other processes
//! (`enroll`, `images add`) write too; SQLite's lock orders them.

use std::fs::OpenOptions;
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;
use std::thread;
use std::time::Duration;

use rusqlite::Connection;
use tokio::sync::{mpsc, oneshot};

pub mod apps;
pub mod commands;
pub mod devices;
pub mod images;
pub mod settings;

use crate::error::{Error, Result};
use crate::state_dir::StateDir;

/// How long a writer waits for another process's transaction; those take milliseconds.
const BUSY_TIMEOUT: Duration = Duration::from_secs(10);

/// Jobs waiting for the writer thread. Beyond it whoever brings more waits, and with it the broker's next message.
const QUEUE_JOBS_MAX: usize = 1024;

/// Jobs in one transaction: one sync of the disk then serves a burst of reports.
const BATCH_JOBS_MAX: usize = 128;

/// Each entry takes the schema from its index to the next version; entries are never edited once released.
const MIGRATIONS: [&str; 1] = [include_str!("schema_1.sql")];

/// Opens the database and brings its schema up to date.
pub fn open(state: &StateDir) -> Result<Connection> {
    // SQLite gives the files beside it the mode of this one: environments of apps may hold secrets.
    let path = state.database();
    let private = OpenOptions::new()
        .create(true)
        .truncate(false)
        .write(true)
        .mode(0o600)
        .open(&path);
    private.map_err(Error::io("open", &path))?;
    open_path(&path)
}

/// Opens the database for reading beside its writers; it must be there.
pub fn open_reader(state: &StateDir) -> Result<Connection> {
    let connection =
        Connection::open_with_flags(state.database(), rusqlite::OpenFlags::SQLITE_OPEN_READ_ONLY)?;
    connection.busy_timeout(BUSY_TIMEOUT)?;
    Ok(connection)
}

fn open_path(path: &Path) -> Result<Connection> {
    let mut connection = Connection::open(path)?;
    connection.busy_timeout(BUSY_TIMEOUT)?;
    connection.pragma_update(None, "journal_mode", "wal")?;
    connection.pragma_update(None, "synchronous", "full")?;
    connection.pragma_update(None, "foreign_keys", true)?;
    migrate(&mut connection)?;
    Ok(connection)
}

fn migrate(connection: &mut Connection) -> Result<()> {
    let transaction = connection.transaction_with_behavior(rusqlite::TransactionBehavior::Immediate)?;
    let version: u32 = transaction.pragma_query_value(None, "user_version", |row| row.get(0))?;
    let newer = MIGRATIONS.get(version as usize..).ok_or_else(|| {
        Error::Conflict(format!(
            "the fleet database has schema version {version}, this punnet-fleet knows {}; use the newer punnet-fleet",
            MIGRATIONS.len()
        ))
    })?;
    if newer.is_empty() {
        return Ok(());
    }
    for migration in newer {
        transaction.execute_batch(migration)?;
    }
    transaction.pragma_update(None, "user_version", MIGRATIONS.len() as u32)?;
    transaction.commit()?;
    Ok(())
}

/// Tells a job's caller what became of it, once the transaction is over.
type Finish = Box<dyn FnOnce(Result<(), String>) + Send>;
type Job = Box<dyn FnOnce(Result<&Connection, String>) -> Finish + Send>;

/// The writer thread's door.
#[derive(Clone)]
pub struct Writer(mpsc::Sender<Job>);

impl Writer {
    /// Starts the writer thread on `connection`. It ends when the last `Writer` is gone.
    pub fn start(connection: Connection) -> std::io::Result<Self> {
        let (jobs_in, jobs) = mpsc::channel(QUEUE_JOBS_MAX);
        thread::Builder::new()
            .name("database".into())
            .spawn(move || write_batches(&connection, jobs))?;
        Ok(Self(jobs_in))
    }

    /// Runs `job` in a transaction of its own and returns once it is durable; on an error nothing of it is kept.
    pub async fn run<T: Send + 'static>(
        &self,
        job: impl FnOnce(&Connection) -> Result<T> + Send + 'static,
    ) -> Result<T> {
        let (done_in, done) = oneshot::channel();
        let job: Job = Box::new(move |connection| {
            let result = connection
                .map_err(Error::Commit)
                .and_then(|connection| in_savepoint(connection, job));
            Box::new(move |committed| {
                let result = match (result, committed) {
                    (Ok(_), Err(why)) => Err(Error::Commit(why)),
                    (result, _) => result,
                };
                // The caller may have gone away; the work is done all the same.
                done_in.send(result).ok();
            })
        });
        self.0.send(job).await.map_err(|_| Error::Ending)?;
        done.await.map_err(|_| Error::Ending)?
    }
}

fn in_savepoint<T>(connection: &Connection, job: impl FnOnce(&Connection) -> Result<T>) -> Result<T> {
    connection.execute_batch("SAVEPOINT job")?;
    let result = job(connection);
    if result.is_err() {
        connection.execute_batch("ROLLBACK TO job")?;
    }
    connection.execute_batch("RELEASE job")?;
    result
}

fn write_batches(connection: &Connection, mut jobs: mpsc::Receiver<Job>) {
    let mut batch = Vec::with_capacity(BATCH_JOBS_MAX);
    while jobs.blocking_recv_many(&mut batch, BATCH_JOBS_MAX) > 0 {
        if let Err(why) = connection.execute_batch("BEGIN IMMEDIATE") {
            batch.drain(..).for_each(|job| job(Err(why.to_string()))(Ok(())));
            continue;
        }
        let finishes: Vec<Finish> = batch.drain(..).map(|job| job(Ok(connection))).collect();
        let committed = connection.execute_batch("COMMIT");
        if committed.is_err() && !connection.is_autocommit() {
            connection.execute_batch("ROLLBACK").ok();
        }
        let committed = committed.map_err(|error| error.to_string());
        for finish in finishes {
            finish(committed.clone());
        }
    }
}

/// SQLite has no unsigned 64-bit integers; the bits are what counts, comparisons are made here.
pub(crate) fn to_row(value: u64) -> i64 {
    value.cast_signed()
}

/// The other way round.
pub(crate) fn from_row(value: i64) -> u64 {
    value.cast_unsigned()
}

#[cfg(test)]
pub(crate) fn in_memory() -> Connection {
    open_path(Path::new(":memory:")).unwrap()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_database_of_a_newer_schema_is_refused() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("db");
        open_path(&path)
            .unwrap()
            .pragma_update(None, "user_version", MIGRATIONS.len() as u32 + 1)
            .unwrap();
        let error = open_path(&path).unwrap_err().to_string();
        assert!(error.contains("use the newer punnet-fleet"), "{error}");
    }

    #[tokio::test]
    async fn a_failed_job_leaves_nothing_and_its_neighbours_stay() {
        let writer = Writer::start(in_memory()).unwrap();
        let set = |key: &'static str, fail: bool| {
            let writer = writer.clone();
            async move {
                writer
                    .run(move |c| {
                        settings::set(c, key, "x")?;
                        if fail { Err(Error::Ending) } else { Ok(()) }
                    })
                    .await
            }
        };
        let (a, b, c) = tokio::join!(set("a", false), set("b", true), set("c", false));
        assert!(a.is_ok() && b.is_err() && c.is_ok());
        let kept = writer
            .run(|c| {
                Ok((
                    settings::get(c, "a")?,
                    settings::get(c, "b")?,
                    settings::get(c, "c")?,
                ))
            })
            .await
            .unwrap();
        assert_eq!(kept, (Some("x".into()), None, Some("x".into())));
    }
}
