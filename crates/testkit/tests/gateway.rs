//! A program that enters a lab by itself, and a way in for a person's browser.

use std::net::SocketAddr;
use std::time::Duration;

use pontoon_testkit::http::{Connection, Request};
use pontoon_testkit::{EnterOptions, Entered, Lab, LabError, enter, say, wait_until};
use tokio::io::{AsyncReadExt, AsyncWriteExt};

#[test]
fn a_port_of_the_host_leads_to_an_address_of_the_lab() -> Result<(), LabError> {
    let runtime = || {
        tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()
            .unwrap()
    };
    let args = [
        "a_port_of_the_host_leads_to_an_address_of_the_lab",
        "--exact",
        "--nocapture",
        "--test-threads=1",
    ];
    let options = EnterOptions {
        args: args.map(Into::into).into(),
        gateways: 1,
        grace: Duration::from_secs(5),
        limit: Some(Duration::from_secs(30)),
    };
    match enter(options) {
        Ok(Entered::Inside(inside)) => runtime().block_on(async {
            let lab = Lab::new(inside).await?;
            let address = SocketAddr::from((Lab::VISITOR, 8000));
            let listener = tokio::net::TcpListener::bind(address).await.unwrap();
            lab.open_gateway(0, address)?;
            assert!(lab.open_gateway(1, address).is_err());
            let (mut stream, _) = listener.accept().await.unwrap();
            let mut request = [0; 1024];
            assert!(stream.read(&mut request).await.unwrap() > 0);
            stream
                .write_all(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nhi")
                .await
                .unwrap();
            tokio::time::sleep(Duration::from_millis(500)).await;
            Ok(())
        }),
        Ok(Entered::Outside(outside)) => {
            let address = SocketAddr::from(([127, 0, 0, 1], outside.gateway_ports()[0]));
            let visitor = std::thread::spawn(move || {
                runtime().block_on(wait_until(
                    "an answer through the gateway",
                    Duration::from_secs(20),
                    || async move {
                        let mut connection = Connection::open(address).await.ok()?;
                        connection.send(&Request::get("/"), "x", false).await.ok()
                    },
                ))
            });
            let status = outside.wait()?;
            assert!(status.success(), "{status}");
            assert_eq!(visitor.join().unwrap()?.text(), "hi");
            Ok(())
        }
        Err(LabError::Skip(skip)) => {
            say(&skip);
            Ok(())
        }
        Err(e) => Err(e),
    }
}
