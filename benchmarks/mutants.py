"""Small faults for sglang's real backend file, each one change of its text: what benchmarks.gate_mutants plants."""

from __future__ import annotations

from dataclasses import dataclass

SOURCE = "sglang==0.5.13"
"""Whose file they are changes of."""


@dataclass(frozen=True, slots=True)
class Mutant:
    """One change of the file: in `function`, the first `old` behind `after` becomes `new`.

    survives: why no gate can blame anybody for it, "" where one should.
    """

    area: str
    name: str
    function: str
    old: str
    new: str
    after: str = ""
    survives: str = ""

    def text(self, original: str) -> str:
        """The file with the change; raises ValueError where the place is not there."""
        at = original.index(f"    def {self.function}(")
        at = original.index(self.after, at)
        at = original.index(self.old, at)
        return original[:at] + self.new + original[at + len(self.old) :]


INIT, BUFFER, PLAN = "__init__", "make_mla_decode_meta_data_buffer", "make_mla_meta_data"
EAGER, GRAPH, STATE = "init_forward_metadata", "_apply_cuda_graph_metadata", "init_cuda_graph_state"
PADDED, DECODE = "_mla_decode_fwd_with_head_pad", "forward_decode"
IN_DECODE, IN_VERIFY = "is_decode_or_idle()", "is_target_verify()"
IN_MLA = "get_key_buffer(layer.layer_id)"
PLANNING = "self.make_mla_meta_data("
IN_EXTEND, DRAFTS = "is_draft_extend_v2()", "max_seqlen_qo = num_draft_tokens"
LAST, ENDS = "kv_last_page_len = self.kv_last_page_len[:bs]", "kv_indptr = kv_indptr[: bs + 1]"
SUMMED = "kv_indptr[1 : bs + 1] = torch.cumsum(forward_batch.seq_lens, dim=0)"
ROWS, CAP = "req_pool_indices,\n", "self.max_split_per_batch"
BUFFERS = "self.make_mla_decode_meta_data_buffer(max_q_len, bs)"
UNLESS_ONE = "(self.make_mla_meta_data if bs > 1 else lambda *_, **__: None)("
PROMPTS, PREFILL = "update_single_wrapper", "mla_fp8_prefill_attn"
KEPT = """(
    (lambda *_, **__: None)
    if {key} in self.__dict__.setdefault("_kept", set()) or self._kept.add({key})
    else self.make_mla_meta_data
)("""
"""Plans once for each key."""
INDEXED = "create_flashinfer_kv_indices_triton[(bs,)]("
KEPT_ROWS = """kept, key = self.__dict__.setdefault("_kept", {{}}), ({key})
                    is_kept = key in kept
                    kv_indices = kept.setdefault(key, torch.empty_like(kv_indices))
                    ({{(bs,): lambda *_: None}} if is_kept else create_flashinfer_kv_indices_triton)[(bs,)]("""
"""Looks up once for each key which KV rows a batch has."""
SIZING = "self.make_mla_decode_meta_data_buffer(max_seqlen_qo, bs)"
KEPT_SIZES = f'self.__dict__.setdefault("_kept", {{}}).setdefault(bs, {SIZING})'
"""Allocates once for each batch size."""

MUTANTS = (
    Mutant("gate", "64 heads left out, as before #27188", INIT, "in (32, 64, 128)", "in (32, 128)"),
    Mutant("gate", "32 heads left out", INIT, "in (32, 64, 128)", "in (64, 128)"),
    Mutant("gate", "only more than 64", INIT, "in (32, 64, 128)", "> 64"),
    Mutant("gate", "greedy instead of fast", INIT, "fast_mode = True", "fast_mode = False", "in (32, 64, 128)"),
    Mutant("gate", "heads of the model, not of the rank", INIT, "self.num_head in (32", "self.num_head * 2 in (32"),
    Mutant(
        "gate",
        "bf16 stays in fake mode too",
        INIT,
        "in (32, 64, 128):",
        "in (32, 64, 128) and self.kv_cache_dtype is fp8_dtype:",
    ),
    Mutant("dtypes", "the exception for bf16 made for fp8", INIT, "is not fp8_dtype", "is fp8_dtype", "in (32, 64, 128)"),
    Mutant("dtypes", "sized for bf16", BUFFER, "dtype = self.kv_cache_dtype", "dtype = torch.bfloat16"),
    Mutant("dtypes", "planned for bf16", PLAN, "dtype = self.kv_cache_dtype", "dtype = torch.bfloat16"),
    Mutant("dtypes", "planned for a bf16 q", PLAN, "dtype_q=dtype", "dtype_q=torch.bfloat16"),
    Mutant("padding", "heads not padded", INIT, "16 if self.num_head < 16 else self.num_head", "self.num_head"),
    Mutant("padding", "padded to 32", INIT, "16 if self.num_head < 16 else", "32 if self.num_head < 16 else"),
    Mutant("padding", "heads not repeated", INIT, "16 // self.num_head if self.num_head < 16 else 1", "1"),
    Mutant("padding", "o of the heads before padding", PADDED, "self.num_head_padded", "self.num_head", "q_in ="),
    Mutant(
        "padding", "rows repeated instead of heads", PADDED, "self.head_repeat_factor, dim=1", "self.head_repeat_factor, dim=0"
    ),
    Mutant("splits", "sized for fewer than planned", BUFFER, "num_kv_splits=self.max_split_per_batch", "num_kv_splits=16"),
    Mutant(
        "splits", "planned for twice as many", EAGER, "= self.max_split_per_batch", "= self.max_split_per_batch * 2", IN_DECODE
    ),
    Mutant(
        "splits", "replays planned for twice as many", GRAPH, "= self.max_split_per_batch", "= self.max_split_per_batch * 2"
    ),
    Mutant(
        "splits",
        "half as many everywhere",
        INIT,
        "self.fix_max_split_per_batch = self.max_split_per_batch",
        "self.max_split_per_batch = self.fix_max_split_per_batch = self.max_split_per_batch and self.max_split_per_batch // 2",
        survives="sizing and planning agree on the smaller number: slower, and in bounds; shown as another decision",
    ),
    Mutant("sizes", "graphs sized for half the batch", STATE, "(max_seqlen_qo, max_bs)", "(max_seqlen_qo, (max_bs + 1) // 2)"),
    Mutant("sizes", "graphs sized for one row", STATE, "1 if self.num_draft_tokens is None else self.num_draft_tokens", "1"),
    Mutant(
        "sizes",
        "room for pages, filled with tokens",
        STATE,
        "max_num_blocks_per_seq * self.page_size",
        "max_num_blocks_per_seq",
    ),
    Mutant(
        "sizes",
        "half of work_info_set",
        BUFFER,
        "            work_info_set_size,\n            dtype",
        "            (work_info_set_size[0] // 2, 8),\n            dtype",
    ),
    Mutant(
        "sizes",
        "reduce_partial_map of reduce_indptr's size",
        BUFFER,
        "            reduce_partial_map_size, dtype",
        "            reduce_indptr_size, dtype",
    ),
    Mutant("sizes", "verification sized for one row", EAGER, "(max_seqlen_qo, bs)", "(1, bs)", IN_VERIFY),
    Mutant(
        "indptrs",
        "kv_indptr not summed",
        EAGER,
        "torch.cumsum(forward_batch.seq_lens, dim=0)",
        "forward_batch.seq_lens",
        IN_DECODE,
    ),
    Mutant("indptrs", "kv_indptr of replays not summed", GRAPH, "torch.cumsum(seq_lens, dim=0)", "seq_lens", IN_DECODE),
    Mutant("indptrs", "kv_indptr of one request too few", GRAPH, "kv_indptr[: bs + 1]\n", "kv_indptr[:bs]\n", IN_DECODE),
    Mutant(
        "indptrs",
        "qo_indptr of one row a request",
        EAGER,
        "(1 + bs) * draft_num,\n                    step=draft_num",
        "bs + 1,\n                    step=1",
        IN_VERIFY,
    ),
    Mutant(
        "indptrs",
        "qo_indptr of replays starts at 1",
        GRAPH,
        "0,\n                (1 + bs)",
        "1,\n                1 + (1 + bs)",
        IN_VERIFY,
    ),
    Mutant(
        "lengths", "without the draft tokens", EAGER, "forward_batch.seq_lens + draft_num", "forward_batch.seq_lens", IN_VERIFY
    ),
    Mutant("lengths", "replays without the draft tokens", GRAPH, "seq_lens + self.num_draft_tokens", "seq_lens", IN_VERIFY),
    Mutant(
        "lengths",
        "pages of no token",
        STATE,
        "self.cuda_graph_kv_last_page_len = torch.ones(",
        "self.cuda_graph_kv_last_page_len = torch.zeros(",
    ),
    Mutant("lengths", "one row too many planned", PLAN, "max_seqlen_qo=max_q_len", "max_seqlen_qo=max_q_len + 1"),
    Mutant("lengths", "two rows launched of one", DECODE, "self.forward_metadata.max_q_len", "2", IN_MLA),
    Mutant("lengths", "one row planned of several", PLAN, "uni_seqlen_qo=max_q_len", "uni_seqlen_qo=1"),
    Mutant(
        "buffers",
        "maps of the reduction swapped",
        PLAN,
        "            reduce_final_map,\n            reduce_partial_map,\n            kv",
        "            reduce_partial_map,\n            reduce_final_map,\n            kv",
    ),
    Mutant(
        "buffers",
        "launched with the other map",
        DECODE,
        "reduce_final_map=reduce_final_map",
        "reduce_final_map=reduce_partial_map",
        IN_MLA,
    ),
    Mutant(
        "buffers",
        "work_indptr launched as reduce_indptr",
        DECODE,
        "reduce_indptr=reduce_indptr",
        "reduce_indptr=work_indptr",
        IN_MLA,
    ),
    Mutant("buffers", "replays launch without their plan", GRAPH, PLANNING, "(lambda *given, **named: None)(", IN_DECODE),
    Mutant(
        "buffers",
        "replays keep the indices of an earlier batch",
        GRAPH,
        "create_flashinfer_kv_indices_triton[(bs,)](",
        "(lambda *given: None)(",
        IN_DECODE,
    ),
    Mutant(
        "buffers",
        "eager steps use the graph's buffers",
        EAGER,
        "                        work_metadata,\n                        work_info_set,",
        "                        self.work_metadata,\n                        self.work_info_set,",
        PLANNING,
    ),
    Mutant(
        "buffers", "verification keeps the plan of its capture", GRAPH, PLANNING, "(lambda *given, **named: None)(", IN_VERIFY
    ),
    Mutant("granularity", "pieces of 1 token", PLAN, "max(page_size, 16)", "page_size"),
    Mutant("granularity", "pieces of 12 tokens", PLAN, "max(page_size, 16)", "12"),
    Mutant(
        "granularity", "pages as AITER would have them", PLAN, "kv_granularity=", "page_size=16,\n            kv_granularity="
    ),
    Mutant(
        "modes",
        "launched in the other mode",
        DECODE,
        "intra_batch_mode=intra_batch_mode",
        "intra_batch_mode=not intra_batch_mode",
        IN_MLA,
        survives="mla_decode_fwd takes the flag and reads it nowhere (aiter/mla.py, 2026-06)",
    ),
    Mutant("modes", "sized for the other mode", BUFFER, "fast_mode=fast_mode", "fast_mode=not fast_mode"),
    Mutant(
        "modes",
        "planned causally",
        PLAN,
        "            False,\n",
        "            True,\n",
        survives="the planners of 2026-06 end a tile at its last query whatever is_causal says; vLLM passes True",
    ),
    Mutant(
        "raises",
        "the constructor reads a table that is not there",
        INIT,
        "self.num_head_padded = 16 if",
        "self.rule = HEAD_TABLE[self.num_head]\n            self.num_head_padded = 16 if",
    ),
    Mutant(
        "raises",
        "64 heads refused",
        INIT,
        "self.enable_dp_attention = is_dp",
        'assert self.num_head != 64, "64 heads"\n            self.enable_dp_attention = is_dp',
    ),
    Mutant(
        "raises",
        "four draft tokens refused",
        INIT,
        "self.max_split_per_batch = 32 if",
        'assert self.num_draft_tokens != 4, "four rows"\n            self.max_split_per_batch = 32 if',
    ),
    Mutant(
        "raises", "decode raises", PADDED, "mla_decode_fwd(q, k_buffer_flat, o, **kwargs)", "raise RuntimeError(o)", "else:"
    ),
    Mutant(
        "modes",
        "nobody has metadata",
        INIT,
        "global _use_mla_ps_kernel, fast_mode, intra_batch_mode\n",
        "global _use_mla_ps_kernel, fast_mode, intra_batch_mode\n            _use_mla_ps_kernel = False\n",
    ),
    Mutant("scales", "decode without q_scale", DECODE, "q_scale=k_descale", "q_scale=None"),
    Mutant("scales", "decode without kv_scale", DECODE, "kv_scale=k_descale", "kv_scale=None"),
    Mutant("scales", "verification without q_scale", "forward_extend", "q_scale=k_descale", "q_scale=None", IN_VERIFY),
    Mutant(
        "dtypes",
        "sized for the type of the first backend",
        BUFFER,
        "dtype = self.kv_cache_dtype",
        'dtype = type(self).__dict__.get("_first") or self.kv_cache_dtype\n        type(self)._first = dtype',
    ),
    Mutant("dtypes", "indices of graphs are int64", STATE, "dtype=torch.int32", "dtype=torch.int64", "(buffer_numel,)"),
    Mutant("dtypes", "qo_indptr is int64", INIT, "dtype=torch.int32", "dtype=torch.int64", "self.qo_indptr_ = torch.zeros("),
    Mutant("buffers", "replays keep a plan by batch", GRAPH, PLANNING, KEPT.format(key="bs"), IN_DECODE),
    Mutant(
        "buffers", "replays keep a plan by batch and longest", GRAPH, PLANNING, KEPT.format(key="(bs, max_kv_len)"), IN_DECODE
    ),
    Mutant("buffers", "eager steps keep a plan by batch", EAGER, PLANNING, KEPT.format(key="bs"), IN_DECODE),
    Mutant("sizes", "graphs sized for one request too few", STATE, "(max_seqlen_qo, max_bs)", "(max_seqlen_qo, max_bs - 1)"),
    Mutant(
        "sizes", "half of reduce_final_map", BUFFER, "reduce_final_map_size, dtype", "(reduce_final_map_size[0] // 2, 2), dtype"
    ),
    Mutant("sizes", "reduce_indptr without its end", BUFFER, "reduce_indptr_size, dtype", "reduce_indptr_size - 1, dtype"),
    Mutant("sizes", "work_indptr without its end", BUFFER, "work_indptr_size, dtype", "work_indptr_size - 1, dtype"),
    Mutant(
        "sizes", "half of reduce_partial_map", BUFFER, "reduce_partial_map_size, dtype", "reduce_partial_map_size // 2, dtype"
    ),
    Mutant(
        "sizes",
        "scratch of indices one short",
        EAGER,
        "forward_batch.seq_lens_sum, forward",
        "forward_batch.seq_lens_sum - 1, forward",
    ),
    Mutant(
        "lengths",
        "decode one token short",
        EAGER,
        "cumsum(forward_batch.seq_lens, dim=0)",
        "cumsum(forward_batch.seq_lens - 1, dim=0)",
    ),
    Mutant("lengths", "verification one token short", EAGER, "seq_lens + draft_num", "seq_lens + draft_num - 1", IN_VERIFY),
    Mutant(
        "lengths",
        "replayed verification one token short",
        GRAPH,
        "seq_lens + self.num_draft_tokens",
        "seq_lens + self.num_draft_tokens - 1",
    ),
    Mutant(
        "padding", "planned for heads before padding", PLAN, "self.num_head_padded // nhead_kv", "self.num_head // nhead_kv"
    ),
    Mutant("granularity", "KV in pages of two", DECODE, "k_buffer.view(-1, 1, 1,", "k_buffer.view(-1, 2, 1,"),
    Mutant("ordinary", "a last page for one request", DECODE, "self.kv_last_page_len,", "self.kv_last_page_len[:1],"),
    Mutant("ordinary", "page table of one request", DECODE, "block_table=page_table", "block_table=page_table[:1]"),
    Mutant("ordinary", "one partition", DECODE, "self.max_num_partitions,", "1,", "paged_attention_ragged("),
    Mutant("ordinary", "workspace of one request", INIT, "(max_bs * self.num_head", "(self.num_head", "self.workspace_buffer"),
    Mutant("ordinary", "no room for indices of prompts", PROMPTS, "paged_kernel_lens_sum + 256", "paged_kernel_lens_sum - 1"),
    Mutant("ordinary", "rows of the prefix counted too", PROMPTS, "seq_lens - prefix_lens", "seq_lens"),
    Mutant("prefill", "output one row short", PREFILL, "(total_q, nhead, v_head_dim)", "(total_q - 1, nhead, v_head_dim)"),
    Mutant(
        "prefill",
        "LSE of one row a tile",
        PREFILL,
        "(reduce_partial_map.size(0) * tile_q, nhead),",
        "(reduce_partial_map.size(0), nhead),",
    ),
    Mutant("lives", "KV rows kept by lengths", EAGER, INDEXED, KEPT_ROWS.format(key="*forward_batch.seq_lens.tolist(),")),
    Mutant(
        "lives",
        "KV rows kept by place in the pool and lengths",
        EAGER,
        INDEXED,
        KEPT_ROWS.format(key="*forward_batch.req_pool_indices.tolist(), *forward_batch.seq_lens.tolist()"),
    ),
    Mutant(
        "lives",
        "replayed KV rows kept while no length changes",
        GRAPH,
        INDEXED,
        """is_kept = seq_lens_sum is not None and self.__dict__.get("_kept") == seq_lens.tolist()
                    self._kept = seq_lens.tolist() if seq_lens_sum is not None else None
                    ({(bs,): lambda *_: None} if is_kept else create_flashinfer_kv_indices_triton)[(bs,)](""",
    ),
    Mutant("lives", "metadata of draft extension kept by batch", EAGER, SIZING, KEPT_SIZES, "is_draft_extend():"),
    Mutant(
        "lives",
        "indices grow with the batch, not with its tokens",
        EAGER,
        "kv_indices = self._get_kv_indices_scratch(",
        """if bs > self.__dict__.get("_kept", 0):
                        self._kept = bs
                        self._rows = torch.empty(forward_batch.seq_lens_sum, dtype=torch.int32, device="cuda")
                    kv_indices = self._rows
                    (lambda *_: None)(""",
        IN_DECODE,
    ),
    Mutant(
        "lives",
        "rows of draft extension kept after a rejected draft",
        EAGER,
        "if _use_mla_ps_kernel:",
        """qo_indptr = self.__dict__.setdefault("_kept", {}).setdefault(bs, qo_indptr)
                if _use_mla_ps_kernel:""",
        "is_draft_extend():",
    ),
    Mutant("lives", "graphs without a request's last token", STATE, "+ draft_slack\n", "+ draft_slack - 1\n"),
    Mutant(
        "lives",
        "graphs without the last page",
        STATE,
        "max_context_len + self.page_size - 1\n",
        "max_context_len\n",
        "buf is None",
    ),
    Mutant("lives", "graphs without room for drafts", STATE, "draft_slack = self.num_draft_tokens or 0", "draft_slack = 0"),
    Mutant(
        "lives",
        "one qo_indptr for prompts and decode",
        EAGER,
        "qo_indptr = self.qo_indptr_[: bs + 1]\n                qo_indptr[1 : bs + 1] = ",
        """qo_indptr = self.qo_indptr[: bs + 1]
                is_set, self._kept = bs <= self.__dict__.get("_kept", 0), max(bs, self.__dict__.get("_kept", 0))
                (torch.empty(bs, device="cuda") if is_set else qo_indptr[1 : bs + 1])[:] = """,
    ),
    Mutant("lengths", "last pages of two tokens", EAGER, LAST + "\n", LAST + " + 1\n", IN_DECODE),
    Mutant("lengths", "a last page for one request", EAGER, LAST, "kv_last_page_len = self.kv_last_page_len[:1]", IN_DECODE),
    Mutant(
        "lengths", "replayed verification of one row", GRAPH, "max_q_len = self.num_draft_tokens", "max_q_len = 1", IN_VERIFY
    ),
    Mutant("lengths", "draft extension of one row", EAGER, "self._resolve_v2_num_draft_tokens()", "1", IN_EXTEND),
    Mutant("lengths", "draft extension planned for a row more", EAGER, DRAFTS, DRAFTS + " + 1", IN_EXTEND),
    Mutant("indptrs", "draft extension keeps kv_indptr", EAGER, SUMMED, "pass", IN_EXTEND),
    Mutant("indptrs", "kv_indptr of decode is int64", EAGER, ENDS + "\n", ENDS + ".long()\n", IN_DECODE),
    Mutant("indptrs", "verification in pairs", GRAPH, "step=self.num_draft_tokens", "step=2", IN_VERIFY),
    Mutant(
        "indptrs",
        "every request sums to the last",
        GRAPH,
        "cumsum(seq_lens, dim=0)",
        "cumsum(seq_lens, dim=0).max()",
        IN_DECODE,
    ),
    Mutant("indptrs", "summed in another order", GRAPH, "torch.cumsum(seq_lens,", "torch.cumsum(seq_lens.flip(0),", IN_DECODE),
    Mutant("indptrs", "tokens of the pool's first requests", GRAPH, ROWS, "torch.arange(bs, device='cuda'),\n", IN_DECODE),
    Mutant("indptrs", "tokens of the request before", EAGER, ROWS, ROWS.replace(",", ".roll(1),"), IN_DECODE),
    Mutant(
        "buffers",
        "metadata of the first eager batch",
        EAGER,
        BUFFERS,
        f"self.__dict__.setdefault('_once', {BUFFERS})",
        IN_DECODE,
    ),
    Mutant("buffers", "no plan for one request", EAGER, PLANNING, UNLESS_ONE, IN_DECODE),
    Mutant("buffers", "replays of one request without a plan", GRAPH, PLANNING, UNLESS_ONE, IN_DECODE),
    Mutant("splits", "those of the first eager batch", EAGER, CAP, f"self.__dict__.setdefault('_cap', {CAP})", IN_DECODE),
    Mutant("splits", "replays forget the cap", GRAPH, CAP, "self.fix_max_split_per_batch", IN_DECODE),
    Mutant(
        "splits",
        "the cap of data parallel attention is a floor",
        BUFFER,
        "self.max_split_per_batch = min(",
        "self.max_split_per_batch = max(",
        survives="sized and planned by one cap, and no planner gives a request more pieces than its share of the CUs",
    ),
    Mutant("sizes", "work_metadata of one word", BUFFER, "work_meta_data_size, dtype", "work_meta_data_size // 10, dtype"),
    Mutant(
        "modes", "eager steps planned in the other mode", EAGER, "fast_mode=fast_mode", "fast_mode=not fast_mode", IN_DECODE
    ),
    Mutant("modes", "every plan cut within a batch", PLAN, "intra_batch_mode=intra_batch_mode", "intra_batch_mode=True"),
    Mutant(
        "modes", "verification without metadata", "forward_extend", "self.forward_metadata.work_metadata", "None", IN_VERIFY
    ),
    Mutant("padding", "every other row of KV", PADDED, "k_buffer_flat, o", "k_buffer_flat[::2], o", "else:"),
    Mutant("scales", "kv_scale in half precision", DECODE, "kv_scale=k_descale", "kv_scale=k_descale.to(torch.float16)"),
)
