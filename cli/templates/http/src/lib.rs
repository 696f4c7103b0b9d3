use nearfield::{IntoResponse, Request, RequestExt, Result};

#[derive(serde::Deserialize)]
struct Greeting {
    name: Option<String>,
}

/// Answers `GET /{{name}}?name=…`.
#[nearfield::http]
fn greet(request: Request) -> Result<impl IntoResponse> {
    let Greeting { name } = request.query()?;
    let name = name.as_deref().unwrap_or("world");
    nearfield::info!("greeting", name = name);
    Ok(format!("Hello, {name}!\n"))
}

#[cfg(test)]
mod tests {
    use nearfield::mock;

    #[test]
    fn it_greets() {
        let answer = mock::call(super::greet, mock::get("/?name=Ada"));
        assert_eq!((answer.status().as_u16(), answer.body().as_str()), (200, "Hello, Ada!\n"));
    }
}
