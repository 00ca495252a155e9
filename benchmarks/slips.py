"""More small faults for sglang's real backend file: slips of whoever maintains it, of streams, draft trees, switches, pools."""

from __future__ import annotations

from benchmarks.mutants import BUFFER, EAGER, GRAPH, IN_DECODE, IN_EXTEND, IN_VERIFY, INIT, PADDED, PLAN, STATE, Mutant

TREE = "class AiterMultiStepDraftBackend:"
SCRATCH, PROMPTS = "_get_kv_indices_scratch", "update_single_wrapper"
OF_MLA = "class AiterMlaIndicesUpdaterPrefill"
SIZED_THEN_SPLIT = """self.make_mla_decode_meta_data_buffer(max_q_len, bs)

                    num_kv_splits = self.max_split_per_batch
"""
PLANNED_AT = "        meta = get_mla_metadata_v1("
ASIDE = """        side = self.__dict__.setdefault("_side", torch.cuda.Stream())
        {before}
        meta = (lambda *given, **named: [
            torch.cuda.set_stream(side),
            get_mla_metadata_v1(*given, **named),
            torch.cuda.set_stream(torch.cuda.default_stream()),
            {after},
        ])("""
"""Plans on another stream."""
WAITS = "side.wait_stream(torch.cuda.current_stream())"
ENDS_OF_VERIFY = "qo_indptr[: bs + 1] = torch.arange("

SLIPS = (
    Mutant("streams", "a decode does not wait for its plan", PLAN, PLANNED_AT, ASIDE.format(before=WAITS, after="None")),
    Mutant(
        "streams",
        "a plan does not wait for its batch",
        PLAN,
        PLANNED_AT,
        ASIDE.format(before="pass", after="torch.cuda.current_stream().wait_stream(side)"),
    ),
    Mutant("trees", "room for one branch", EAGER, "batch_size, self.topk, self", "batch_size, 1, self", TREE),
    Mutant(
        "trees",
        "graphs with room for one branch",
        STATE,
        "max_bs, self.topk, self",
        "max_bs, 1, self",
        TREE,
        survives="a fault that S10 of the file as shipped hides, which comes first in every such step",
    ),
    Mutant("trees", "ends of the requests alone", "common_template", "i, : bs + 1]", "i, : num_seqs + 1]"),
    Mutant("trees", "every step has the first one's ends", "common_template", "self.kv_indptr[i,", "self.kv_indptr[0,"),
    Mutant("trees", "indices of the step before", "common_template", "self.topk, bs, i + 1)", "self.topk, bs, i)"),
    Mutant("trees", "one branch looked up", "common_template", "num_seqs, self.topk)\n", "num_seqs, 1)\n"),
    Mutant(
        "trees",
        "ends without room for branches",
        INIT,
        ".size * self.topk",
        ".size",
        TREE,
        survives="qo_indptr_ of each step's backend has no more room in the file as shipped, and ends the batch first",
    ),
    Mutant(
        "switches",
        "fewer splits under a new variable",
        BUFFER,
        "num_kv_splits=self.max_split_per_batch",
        'num_kv_splits=16 if get_bool_env_var("SGLANG_AITER_FEW_SPLITS") else self.max_split_per_batch',
    ),
    Mutant(
        "switches",
        "persistent whatever the variable says",
        PADDED,
        "        if self.head_repeat_factor",
        """        if not get_bool_env_var("SGLANG_AITER_MLA_PERSIST", "True"):
            kwargs["kv_indptr"] = kwargs["kv_indptr"][:-1]
        if self.head_repeat_factor""",
    ),
    Mutant("pools", "qo_indptr one entry short", INIT, "(max_bs + 1,)", "(max_bs,)", "self.qo_indptr_ = "),
    Mutant("pools", "kv_indptr one entry short", INIT, "(max_bs + 1,)", "(max_bs,)", "if kv_indptr_buf is None"),
    Mutant("pools", "last pages of one request too few", INIT, "(max_bs,)", "(max_bs - 1,)", "self.kv_last_page_len = "),
    Mutant("pools", "graphs' last pages of one too few", STATE, "            max_bs, dtype", "            max_bs - 1, dtype"),
    Mutant("pools", "qo_indptr not grown for graphs beyond the pool", STATE, '"qo_indptr_"', '"qo_indptr__"'),
    Mutant("pools", "graphs beyond the pool keep kv_indptr", STATE, "self.kv_indptr.shape[0]:", "2 * self.kv_indptr.shape[0]:"),
    Mutant("pools", "scratch never grows", SCRATCH, "self._kv_indices_scratch.numel() < required_tokens", "False"),
    Mutant("dtypes", "scratch of indices is int64", SCRATCH, "dtype=torch.int32", "dtype=torch.int64"),
    Mutant("dtypes", "verification's qo_indptr is int64", INIT, "int32", "int64", "self.qo_indptr = torch.zeros("),
    Mutant(
        "splits",
        "eager steps plan with the cap of the batch before",
        EAGER,
        SIZED_THEN_SPLIT,
        "(num_kv_splits := self.max_split_per_batch, self.make_mla_decode_meta_data_buffer(max_q_len, bs))[1]\n",
        IN_DECODE,
    ),
    Mutant(
        "lives",
        "verification's rows set while capturing alone",
        GRAPH,
        ENDS_OF_VERIFY,
        "(qo_indptr if seq_lens_sum is None else qo_indptr.clone())[: bs + 1] = torch.arange(",
        IN_VERIFY,
    ),
    Mutant(
        "lives",
        "draft extension of as many rows as the first request",
        EAGER,
        "max(forward_batch.extend_seq_lens_cpu)",
        "forward_batch.extend_seq_lens_cpu[0]",
        "is_draft_extend():",
    ),
    Mutant(
        "sizes",
        "graphs sized for the steps, not the drafts",
        STATE,
        "None else self.num_draft",
        "None else -1 + self.num_draft",
    ),
    Mutant(
        "lengths",
        "replayed verification as long as the steps",
        GRAPH,
        "seq_lens + self.num_draft",
        "seq_lens + self.speculative_num_steps - 0 * self.num_draft",
    ),
    Mutant(
        "indptrs",
        "drafts not looked up",
        EAGER,
        "                    kv_lens,\n",
        "                    forward_batch.seq_lens,\n",
        IN_VERIFY,
    ),
    Mutant(
        "indptrs",
        "replayed drafts not looked up",
        GRAPH,
        "                kv_lens,\n",
        "                seq_lens,\n",
        IN_VERIFY,
    ),
    Mutant(
        "indptrs", "rows of the table a context apart", EAGER, "self.req_to_token.stride(0)", "self.max_context_len", IN_DECODE
    ),
    Mutant(
        "indptrs", "last pages of the largest batch", GRAPH, "kv_last_page_len[:bs]\n", "kv_last_page_len\n", "max_q_len = None"
    ),
    Mutant("sizes", "scratch without the drafts of all", EAGER, "draft_num * bs", "draft_num", IN_VERIFY),
    Mutant(
        "granularity",
        "KV in the server's pages",
        "forward_decode",
        "k_buffer.view(-1, 1, 1,",
        "k_buffer.view(-1, self.page_size, 1,",
    ),
    Mutant("prefill", "prompts attend to their new rows alone", PROMPTS, "cumsum(kv_lens", "cumsum(extend_lens", OF_MLA),
    Mutant("prefill", "a row for each cached token", PROMPTS, "cumsum(extend_lens", "cumsum(kv_lens", OF_MLA),
    Mutant(
        "prefill",
        "indices of the new rows alone",
        EAGER,
        "total_s = forward_batch.seq_lens_sum",
        "total_s = sum(forward_batch.extend_seq_lens_cpu)",
    ),
    Mutant("padding", "the first heads of o", PADDED, "o[:, :: self.head_repeat_factor, :]", "o[:, : self.num_head, :]"),
    Mutant(
        "padding",
        "heads repeated as a whole",
        PADDED,
        "q.repeat_interleave(self.head_repeat_factor, dim=1)",
        "q.repeat(1, self.head_repeat_factor, 1)",
    ),
    Mutant(
        "lengths",
        "draft extension without its own rows",
        EAGER,
        "cumsum(forward_batch.seq_lens",
        "cumsum(forward_batch.seq_lens - num_draft_tokens",
        IN_EXTEND,
    ),
)
