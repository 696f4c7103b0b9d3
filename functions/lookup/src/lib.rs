//! Finds the records of a key: `GET /lookup/42`, over a dataset put with `--key`.
//!
//! The manifest's `locate` sends each call to a holder of the key's shard, so a look-up reads a few kilobytes of one
//! file there, however large the dataset is.

mod csv;

use nearfield::{Body, Dataset, Error, HeaderValue, Records, Request, RequestExt, Response, Result, header};

/// Answers with the records as JSON, one a line; those of CSV become objects of strings.
#[nearfield::http]
fn lookup(request: Request) -> Result<Response> {
    // The host took the route away; what is left is the key.
    let key = request.path()?;
    let Some(records) = Dataset::open("data")?.records(&key)? else {
        return Err(Error::not_found(format!(
            "there is no record with the key {key:?}"
        )));
    };
    let lines = match records.format().as_str() {
        "csv" => objects(&records, &key)?,
        _ => records.bytes().to_vec(),
    };
    let mut response = Response::new(Body::from(lines));
    response.headers_mut().insert(
        header::CONTENT_TYPE,
        HeaderValue::from_static("application/x-ndjson"),
    );
    Ok(response)
}

/// Each CSV record as an object, its members in the order of the columns.
fn objects(records: &Records, key: &str) -> Result<Vec<u8>> {
    let header = records.header();
    let header = header
        .strip_prefix(nearfield_csv::BYTE_ORDER_MARK)
        .unwrap_or(&header);
    let (names, records) = csv::table(header, records.bytes(), key);
    let mut lines = Vec::new();
    for record in records {
        lines.push(b'{');
        for (index, (name, value)) in names.iter().zip(&record).enumerate() {
            if index > 0 {
                lines.push(b',');
            }
            serde_json::to_writer(&mut lines, name)?;
            lines.push(b':');
            serde_json::to_writer(&mut lines, value)?;
        }
        lines.extend_from_slice(b"}\n");
    }
    Ok(lines)
}

#[cfg(test)]
mod tests {
    use nearfield::mock;

    fn answer(data: mock::Dataset, path: &str) -> (u16, String) {
        let answer = mock::Host::new()
            .dataset("data", data)
            .run(|| mock::call(super::lookup, mock::get(path)));
        (answer.status().as_u16(), answer.into_body())
    }

    #[test]
    fn csv_records_become_objects() {
        let table = "id,name\n7,\"Ada \"\"A\"\"\"\n3,Bo\n7,Cy\na/b c,Di\n";
        let data = || {
            mock::Dataset::new("csv")
                .shard_bytes(10)
                .key("id")
                .file("users.csv", table)
        };
        assert_eq!(
            answer(data(), "/7"),
            (
                200,
                "{\"id\":\"7\",\"name\":\"Ada \\\"A\\\"\"}\n{\"id\":\"7\",\"name\":\"Cy\"}\n".into()
            )
        );
        assert_eq!(
            answer(data(), "/a/b%20c"),
            (200, "{\"id\":\"a/b c\",\"name\":\"Di\"}\n".into())
        );
        assert_eq!(answer(data(), "/8").0, 404);
    }

    #[test]
    fn what_stands_before_the_header_names_no_column() {
        let table = "\u{feff}\n\nid,name\n7,Ada\n";
        let data = mock::Dataset::new("csv").key("id").file("users.csv", table);
        assert_eq!(
            answer(data, "/7"),
            (200, "{\"id\":\"7\",\"name\":\"Ada\"}\n".into())
        );
    }

    #[test]
    fn columns_may_be_separated_by_others_than_commas() {
        let data = mock::Dataset::new("csv")
            .key("id")
            .file("users.csv", "name;id\nAda, A;7\nBo;3\n");
        assert_eq!(
            answer(data, "/7"),
            (200, "{\"name\":\"Ada, A\",\"id\":\"7\"}\n".into())
        );
    }

    #[test]
    fn json_stays_as_it_is() {
        let data = mock::Dataset::new("ndjson").key("/user/id").file(
            "users.ndjson",
            "{\"user\": {\"id\": 2}}\n{\"user\": {\"id\": 1}}\n",
        );
        assert_eq!(answer(data, "/1"), (200, "{\"user\": {\"id\": 1}}\n".into()));
    }
}
