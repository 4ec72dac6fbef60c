//! Where the SQL proxy listens.

use pontoon_fleet::{FleetView, Role, ServerName};
use pontoon_rt::doors::Door;

/// The doors that `view` asks for on the server `me`; `None` without a view. What could not be opened is tried again every
/// 10 ms for a minute after the view asked (the database is moving aside), then twice a second.
pub fn wanted(view: Option<&FleetView>, me: &ServerName) -> Option<Vec<Door>> {
    let view = view?;
    let (Some(sql), Some(server)) = (&view.sql, view.server(me)) else {
        return Some(Vec::new());
    };
    let mut doors = Vec::new();
    if server.roles.contains(&Role::App) {
        doors.extend(sql.listen.iter().cloned().map(Door::Client));
    }
    if server.roles.contains(&Role::Db) {
        doors.push(Door::Relay(server.sql_relay()));
    }
    Some(doors)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::target::tests::view;
    use pontoon_fleet::ListenAddress;
    use pontoon_rt::doors::{Doors, Listener, ThreadDoor};
    use std::os::unix::fs::MetadataExt;
    use tokio::sync::mpsc;

    fn me() -> ServerName {
        "a".parse().unwrap()
    }

    fn doors() -> (Doors, mpsc::UnboundedReceiver<ThreadDoor>) {
        let (sender, receiver) = mpsc::unbounded_channel();
        (Doors::new(vec![sender]), receiver)
    }

    fn listening_on(listen: Vec<ListenAddress>) -> FleetView {
        let mut view = view(Some("a"), 1);
        view.servers[0].roles.remove(&Role::Db);
        view.sql.as_mut().unwrap().listen = listen;
        view
    }

    #[test]
    fn a_taken_address_is_reported_and_tried_again() {
        let taken = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        let address = taken.local_addr().unwrap();
        let view = listening_on(vec![ListenAddress::Tcp(address)]);
        let (mut doors, mut opened) = doors();
        doors.reconcile(wanted(Some(&view), &me()), false);
        assert!(doors.not_listening()[0].starts_with(&address.to_string()));
        drop(taken);
        doors.reconcile(wanted(Some(&view), &me()), false);
        assert!(doors.not_listening().is_empty());
        assert!(matches!(
            opened.try_recv().unwrap().listener,
            Listener::ClientTcp(_)
        ));
    }

    #[test]
    fn the_socket_is_open_to_all_and_unlinked_only_while_it_is_ours() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("mysqld.sock");
        let view = listening_on(vec![ListenAddress::Unix(path.clone())]);
        let (mut doors, _opened) = doors();
        doors.reconcile(wanted(Some(&view), &me()), false);
        assert_eq!(std::fs::metadata(&path).unwrap().mode() & 0o777, 0o777);
        // A database that starts at its old place removes the file and binds anew.
        std::fs::remove_file(&path).unwrap();
        let intruder = std::os::unix::net::UnixListener::bind(&path).unwrap();
        doors.reconcile(wanted(Some(&view), &me()), false);
        assert!(
            doors.not_listening()[0].contains("listens"),
            "{:?}",
            doors.not_listening()
        );
        doors.close_all();
        assert!(path.exists(), "another's socket is left alone");
        drop(intruder);
    }

    #[test]
    fn a_socket_that_somebody_removed_comes_back_and_goes_at_the_end() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("mysqld.sock");
        let view = listening_on(vec![ListenAddress::Unix(path.clone())]);
        let (mut doors, mut opened) = doors();
        doors.reconcile(wanted(Some(&view), &me()), false);
        let first = opened.try_recv().unwrap();
        std::fs::remove_file(&path).unwrap();
        doors.reconcile(wanted(Some(&view), &me()), false);
        assert!(first.stop.is_cancelled());
        let second = opened.try_recv().unwrap();
        std::os::unix::net::UnixStream::connect(&path).unwrap();
        doors.close_all();
        assert!(second.stop.is_cancelled() && !path.exists());
    }

    #[test]
    fn the_relay_needs_an_identity_and_the_role() {
        let mut view = listening_on(Vec::new());
        let (mut doors, _opened) = doors();
        doors.reconcile(wanted(Some(&view), &me()), false);
        assert!(doors.not_listening().is_empty());
        view.servers[0].roles.insert(Role::Db);
        doors.reconcile(wanted(Some(&view), &me()), false);
        assert!(doors.not_listening()[0].contains("identity"));
    }

    #[test]
    fn a_view_without_a_database_closes_the_doors_and_no_view_changes_nothing() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("s");
        let mut view = listening_on(vec![ListenAddress::Unix(path.clone())]);
        let (mut doors, _opened) = doors();
        doors.reconcile(wanted(Some(&view), &me()), false);
        doors.reconcile(None, false);
        assert!(path.exists());
        view.sql = None;
        doors.reconcile(wanted(Some(&view), &me()), false);
        assert!(!path.exists());
    }
}
