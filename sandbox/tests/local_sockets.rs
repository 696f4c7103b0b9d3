//! In a program of its own, since what is refused is refused to all threads for good.

use std::net::{TcpListener, TcpStream, UdpSocket};
use std::os::unix::net::{UnixListener, UnixStream};

use nearfield_sandbox::{Calls, refuse};

#[test]
fn who_has_the_network_alone_reaches_no_program_by_a_file() {
    let path = std::env::temp_dir().join(format!("nearfield-socket-{}", std::process::id()));
    let listener = UnixListener::bind(&path).unwrap();
    UnixStream::connect(&path).unwrap();
    refuse(&[Calls::LocalSockets]).unwrap();
    let refused = UnixStream::connect(&path).unwrap_err();
    assert_eq!(refused.raw_os_error(), Some(97), "{refused}");
    std::fs::remove_file(&path).unwrap();
    drop(listener);
    // What is not a machine's own goes on: the network, and pairs, which reach nobody.
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    TcpStream::connect(listener.local_addr().unwrap()).unwrap();
    UdpSocket::bind("[::]:0").unwrap();
    UnixStream::pair().unwrap();
}
