//! The smallest function: one answer, whatever is asked. Without an argument, the request is not even read.

/// Answers every request.
#[nearfield::http]
fn hello() -> &'static str {
    "Hello, world!"
}

#[cfg(test)]
mod tests {
    use nearfield::mock;

    #[test]
    fn it_says_hello() {
        let answer = mock::call(super::hello, mock::get("/"));
        assert_eq!(
            (answer.status().as_u16(), answer.body().as_str()),
            (200, "Hello, world!")
        );
    }
}
