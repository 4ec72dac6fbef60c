//! The lab's small application as a program, for servers of the end-to-end tests.

use pontoon_testkit::notes::{ServeOptions, serve};

#[tokio::main(flavor = "current_thread")]
async fn main() -> Result<(), pontoon_testkit::LabError> {
    let Some(options) = ServeOptions::from_env() else {
        return Err(pontoon_testkit::LabError::Unknown(
            "started without its settings".to_owned(),
        ));
    };
    match serve(options).await {
        Ok(never) => match never {},
        Err(error) => Err(error),
    }
}
