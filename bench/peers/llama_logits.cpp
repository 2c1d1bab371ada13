// Prints nothing and writes the logits of every position of one sequence: the check that a converted checkpoint means
// to llama.cpp what it means to us. Arguments: MODEL.gguf IDS.i32 LOGITS.f32 (raw little-endian arrays).
#include "llama.h"

#include <cstdio>
#include <fstream>
#include <iterator>
#include <vector>

static std::vector<llama_token> read_ids(const char * path) {
    std::ifstream file(path, std::ios::binary);
    std::vector<char> bytes((std::istreambuf_iterator<char>(file)), std::istreambuf_iterator<char>());
    const auto * ids = reinterpret_cast<const llama_token *>(bytes.data());
    return {ids, ids + bytes.size() / sizeof(llama_token)};
}

int main(int argc, char ** argv) {
    if (argc != 4) {
        std::fprintf(stderr, "usage: %s MODEL.gguf IDS.i32 LOGITS.f32\n", argv[0]);
        return 2;
    }
    const std::vector<llama_token> ids = read_ids(argv[2]);
    llama_model * model = llama_model_load_from_file(argv[1], llama_model_default_params());
    if (model == nullptr || ids.empty()) {
        std::fprintf(stderr, "error: no model in %s or no ids in %s\n", argv[1], argv[2]);
        return 1;
    }
    llama_context_params params = llama_context_default_params();
    params.n_ctx = params.n_batch = params.n_ubatch = ids.size();
    llama_context * context = llama_init_from_model(model, params);
    if (context == nullptr) {
        std::fprintf(stderr, "error: no context for %zu tokens\n", ids.size());
        return 1;
    }
    llama_batch batch = llama_batch_init(ids.size(), 0, 1);
    batch.n_tokens = ids.size();
    for (int i = 0; i < batch.n_tokens; ++i) {
        batch.token[i] = ids[i];
        batch.pos[i] = i;
        batch.n_seq_id[i] = 1;
        batch.seq_id[i][0] = 0;
        batch.logits[i] = 1;
    }
    if (llama_decode(context, batch) != 0) {
        std::fprintf(stderr, "error: the sequence was not evaluated\n");
        return 1;
    }
    const size_t vocabulary = llama_vocab_n_tokens(llama_model_get_vocab(model));
    std::ofstream out(argv[3], std::ios::binary);
    for (int i = 0; i < batch.n_tokens; ++i) {
        out.write(reinterpret_cast<const char *>(llama_get_logits_ith(context, i)), vocabulary * sizeof(float));
    }
    llama_batch_free(batch);
    llama_free(context);
    llama_model_free(model);
    return out.good() ? 0 : 1;
}
