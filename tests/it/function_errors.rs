//! What platforms say of a call, row by row of the README's table: what the client gets, and the word in log and metric.

use serde_json::json;

use crate::harness::*;

const OPENFUNCTION: &str = "openfunction: { function_uri: 'http://$ADDR/' }";
const KNATIVE: &str = "knative: { service: hello, domain: example.com, address: '$ADDR' }";
const OPENWHISK: &str =
    "openwhisk: { api_host: 'http://$ADDR', service_token: 'u:k', namespace: guest, action: hello }";
const LAMBDA: &str = "aws_lambda: { function: hello, region: eu-west-1, endpoint: 'http://$ADDR', \
    authorization: { iam: { accesskey: AKIDEXAMPLE, secretkey: secret } } }";
const LAMBDA_URL: &str =
    "aws_lambda: { function_uri: 'http://$ADDR/', authorization: { iam: { accesskey: A, secretkey: s } } }";
const AZURE: &str = "azure_functions: { function_uri: 'http://$ADDR/api', authorization: { apikey: k } }";
const OPENFAAS: &str = "openfaas: { gateway_uri: 'http://$ADDR', function: hello }";
const OPENFAAS_QUEUE: &str = "openfaas: { gateway_uri: 'http://$ADDR', function: hello, mode: async }";

/// The target; the status, fields and body of its answer; the client's status, and the reason.
type Row<'a> = (&'a str, u16, &'a str, &'a str, u16, Option<&'a str>);

#[tokio::test]
async fn each_signal_has_its_status_and_its_word() {
    let text = "Content-Type: text/plain; charset=utf-8\r\n";
    let json = "Content-Type: application/json\r\n";
    let activation = format!("{json}X-Openwhisk-Activation-Id: 4fa1\r\n");
    let rows: &[Row<'_>] = &[
        (OPENFUNCTION, 500, "X-OpenFunction-Status: crash\r\n", "oops", 500, Some("function_error")),
        (OPENFUNCTION, 500, "X-Google-Status: error\r\n", "oops", 500, Some("function_error")),
        (OPENFUNCTION, 500, "", "oops", 500, None),
        (KNATIVE, 500, "X-Google-Status: crash\r\n", "oops", 500, Some("function_error")),
        (KNATIVE, 503, text, "pending request queue full\n", 503, Some("not_reached")),
        (KNATIVE, 503, text, "context deadline exceeded\n", 503, Some("not_reached")),
        (KNATIVE, 503, text, "busy", 503, None),
        (
            KNATIVE,
            404,
            text,
            "Error getting active endpoint: revision \"x\" not found\n",
            404,
            Some("not_reached"),
        ),
        (
            KNATIVE,
            502,
            text,
            "dial tcp 10.0.0.1:8012: connect: connection refused\n",
            502,
            Some("not_reached"),
        ),
        (KNATIVE, 502, text, "EOF\n", 502, None),
        (OPENWHISK, 502, &activation, "{\"error\":\"the action said so\"}", 502, Some("function_error")),
        (OPENWHISK, 202, &activation, "{\"activationId\":\"4fa1\"}", 202, None),
        (OPENWHISK, 429, json, "{\"error\":\"too many\"}", 429, Some("not_reached")),
        (OPENWHISK, 503, json, "{\"error\":\"down\"}", 503, Some("not_reached")),
        (OPENWHISK, 200, json, "nonsense", 502, Some("bad_envelope")),
        (OPENWHISK, 401, json, "{\"error\":\"who\"}", 401, Some("credential_refused")),
        (
            LAMBDA,
            200,
            "X-Amz-Function-Error: Unhandled\r\n",
            "{\"errorMessage\":\"m\"}",
            502,
            Some("function_error"),
        ),
        (LAMBDA, 403, json, "{\"Message\":\"arn:aws:lambda:…\"}", 403, Some("credential_refused")),
        (LAMBDA, 404, json, "{\"Message\":\"arn:aws:lambda:…\"}", 404, Some("no_function")),
        (LAMBDA, 429, json, "{\"Reason\":\"CallerRateLimitExceeded\"}", 429, Some("throttled")),
        (LAMBDA, 500, json, "{\"Message\":\"ServiceException\"}", 502, Some("platform_error")),
        (
            LAMBDA_URL,
            502,
            "X-Amzn-ErrorType: InternalServerErrorException\r\n",
            "no",
            502,
            Some("function_error"),
        ),
        (AZURE, 503, text, "Function host is not running.", 503, Some("not_reached")),
        (AZURE, 503, text, "busy", 503, None),
        (AZURE, 401, "", "", 401, Some("credential_refused")),
        (OPENFAAS, 200, "", "", 504, Some("upstream_timeout")),
        (OPENFAAS, 200, "X-Duration-Seconds: 0.1\r\n", "", 200, None),
        (OPENFAAS, 404, text, "error finding function hello: not found", 404, Some("not_reached")),
        (OPENFAAS, 503, text, "No endpoints available for: hello", 503, Some("not_reached")),
        (OPENFAAS_QUEUE, 202, "", "", 202, None),
        (OPENFAAS_QUEUE, 500, text, "Error queuing request: full", 500, Some("not_reached")),
    ];
    for (target, says, fields, body, status, reason) in rows {
        let row = format!("{target} {says} {fields:?} {body:?}");
        let answer = format!("HTTP/1.1 {says} X\r\n{fields}Content-Length: {}\r\n\r\n{body}", body.len());
        let origin = Origin::raw(answer).await;
        let gateway =
            Gateway::start(&route("/fn", &target.replace("$ADDR", &origin.addr().to_string()))).await;

        let got = gateway.post("/fn", "{}").await;

        assert_eq!(got.status(), *status, "{row}: {}", got.text());
        let line = gateway.access_log(1).await.remove(0);
        assert_eq!(line["reason"], json!(reason), "{row}: {line}");
        if let Some(reason) = reason {
            gateway.counts("fngate_failures_total", &[("route", "hello"), ("code", reason)], 1.0).await;
        }
        assert!(!got.text().contains("arn:"), "{row}: {}", got.text());
    }
}
