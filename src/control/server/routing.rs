//! Which interface a call is for, and the methods that every varlink service has.

use serde_json::{Value, json};

use super::super::call::Call;
use super::super::value::Fields;
use super::backend::Interface;
use super::fault::{Fault, SERVICE, echo};

/// The interface of every varlink service.
const SERVICE_DESCRIPTION: &str = include_str!("org.varlink.service.varlink");

/// Where a call goes.
pub(super) enum Route<'a> {
    /// To this method of the server's own interface.
    Own(&'a str),
    /// Nowhere: this is its reply.
    Answered(Result<Value, Fault>),
}

/// Routes a call to a server of this interface.
pub(super) fn route(call: &Call, own: Interface) -> Route<'_> {
    let (interface, method) = call.method.rsplit_once('.').unwrap_or(("", &call.method));
    match interface {
        SERVICE => Route::Answered(service(method, call, own)),
        _ if interface == own.name => Route::Own(method),
        _ => Route::Answered(Err(Fault::standard(
            "InterfaceNotFound",
            json!({ "interface": echo(interface) }),
        ))),
    }
}

/// The server has no such method.
pub(super) fn unknown_method(call: &Call) -> Fault {
    Fault::standard("MethodNotFound", json!({ "method": echo(&call.method) }))
}

/// The parameters of a call. One that the method does not have is refused.
pub(super) fn parameters<'a>(call: &'a Call, known: &[&str]) -> Result<Fields<'a>, Fault> {
    match call.parameters.keys().find(|name| !known.contains(&name.as_str())) {
        Some(name) => Err(Fault::parameter(name)),
        None => Ok(Fields(&call.parameters)),
    }
}

fn service(method: &str, call: &Call, own: Interface) -> Result<Value, Fault> {
    match method {
        "GetInfo" => parameters(call, &[]).map(|_| {
            json!({
                "vendor": "vmon",
                "product": "vmon",
                "version": env!("CARGO_PKG_VERSION"),
                "url": env!("CARGO_PKG_REPOSITORY"),
                "interfaces": [SERVICE, own.name],
            })
        }),
        "GetInterfaceDescription" => description(call, own),
        _ => Err(unknown_method(call)),
    }
}

fn description(call: &Call, own: Interface) -> Result<Value, Fault> {
    match parameters(call, &["interface"])?.optional_text("interface")? {
        Some(name) if name == own.name => Ok(json!({ "description": own.description })),
        Some(SERVICE) => Ok(json!({ "description": SERVICE_DESCRIPTION })),
        Some(other) => {
            Err(Fault::standard("InterfaceNotFound", json!({ "interface": echo(other) })))
        }
        None => Err(Fault::parameter("interface")),
    }
}
