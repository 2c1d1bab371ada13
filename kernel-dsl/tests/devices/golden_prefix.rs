//! Prefix linear attention, and Based whose numerator decays, on every device agree with other people's software.

mod golden {
    use spillway_kernel_dsl::Rows;
    use spillway_kernel_dsl::cube::DType;
    use spillway_kernel_dsl::taylor_attention::GradientBuffers;
    use spillway_kernel_dsl::taylor_attention::cube::{DeviceCotangents, DeviceInputs, backward, chunked};

    use crate::device::{clients, download, upload, upload_rows};
    use crate::golden_prefix_cases::golden;

    #[test]
    fn prefix_linear_attention_and_decaying_based_agree() {
        for golden in golden() {
            let (host, cotangents) = (golden.inputs(), golden.cotangents());
            for (name, client) in clients() {
                let rows = |rows: &Rows| upload_rows(client, rows, DType::F32);
                let inputs = DeviceInputs {
                    query: rows(&host.query),
                    key: rows(&host.key),
                    value: rows(&host.value),
                    prefix_key: host.prefix_key.as_ref().map(rows),
                    prefix_value: host.prefix_value.as_ref().map(rows),
                    log_decay: host.log_decay.map(|decay| upload(client, decay)),
                    sequences: host.sequences,
                    prefix_padding: host.prefix_padding,
                };
                let found = chunked(client, &golden.problem, &inputs, None).expect("valid");
                let out = download(client, &found.out);
                golden.check(name, &out, &download(client, &found.state));
                let cotangents = DeviceCotangents {
                    out: rows(&cotangents.out),
                    state: cotangents.state.map(|state| upload(client, state)),
                };
                let found = backward(client, &golden.problem, &inputs, None, &cotangents).expect("valid");
                let read = |buffer| download(client, &buffer);
                let found = GradientBuffers {
                    query: read(found.query),
                    key: read(found.key),
                    value: read(found.value),
                    prefix_key: found.prefix_key.map(read),
                    prefix_value: found.prefix_value.map(read),
                    log_decay: found.log_decay.map(read),
                    state: read(found.state),
                };
                golden.check_gradients(name, &out, &found);
            }
        }
    }
}
