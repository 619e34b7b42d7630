"""What the command line prints of a plan, a report and a machine: dictionaries in, lines out."""

from __future__ import annotations

from typing import Any

Result = dict[str, Any]


def plan_table(plan: Result) -> str:
    """A plan as a small table by group, with other plans that fit."""
    groups = {
        "adapters": plan["adapters"],
        "head": plan["head"],
        "bag": plan["bag_of_tokens"],
        "memory": plan["memory"],
        "biases": plan["biases"],
        "trainable": plan["trainable"],
    }
    head = plan["head_kind"] + (f" (rank {plan['head_rank']})" if plan["head_rank"] else "")
    rows = [f"{plan['base']}, {plan['num_labels']} labels, head {head}, pooling {plan['pooling']}"]
    rows += [
        f"  {name:<10}{count:>12,}"
        for name, count in groups.items()
        if count or name not in ("bag", "memory", "biases")
    ]
    rows += [f"  {'of':<10}{plan['total']:>12,}  {plan['trainable_percent']} %"]
    rows += [f"  {'budget':<10}{plan['budget']:>12,}  {plan['budget'] - plan['trainable']:,} left"]
    kind = "DoRA, " * plan["use_dora"] + "rsLoRA, " * plan["use_rslora"]
    where = f"  {kind}r {plan['r']}, alpha {plan['lora_alpha']} on {len(plan['modules'])} matrices"
    rows += [f"{where}; the largest r that fits is {plan['largest_r']}"]
    if plan["neighbours"]:
        rows += ["also fits:"]
        rows += [f"  r {n['r']:<4} {n['trainable']:>9,}  {', '.join(n['target_modules'])}" for n in plan["neighbours"]]
    return "\n".join(rows)


def good_plans_table(result: Result) -> str:
    """Several plans for one base and budget, best first, each with its reason; the flags of the first."""
    plans = result["plans"]
    rows = [f"{result['base']}, {result['num_labels']} labels, budget {result['budget']:,}: plans that fit, best first"]
    width = max(len(", ".join(p["target_modules"])) for p in plans)
    rows += [f"  {'head':<9} {'targets':<{width}} {'r':>4} {'adapters':>10} {'head':>9} {'trainable':>10}"]
    for p in plans:
        targets = ", ".join(p["target_modules"])
        counts = f"{p['r']:>4} {p['adapters']:>10,} {p['head']:>9,} {p['trainable']:>10,}"
        rows += [f"  {p['head_kind']:<9} {targets:<{width}} {counts}  {p['reason']}"]
    return "\n".join([*rows, result["rule"], f"the first:  {plans[0]['flags']}"])


LABELS_SHOWN, FINDINGS_SHOWN = 12, 16  # lines: what `data check` says fits on a screen


def check_table(checked: Result) -> str:
    """What `data check` found: files, labels, lengths, and each finding with what is done about it."""
    lines = [
        f"{file['split']:<11}{file['rows']:>9,} rows  {file['file']} ({file['kind']})" for file in checked["files"]
    ]
    lines += [checked["columns"], *_classes_lines(checked)]
    for unit, at in checked["lengths"].items():
        figures = "  ".join(f"{name} {value:,.0f}" for name, value in at.items())
        lines.append(f"{unit:<11}{figures}")
    if checked["cut"] is not None:
        lines.append(f"{checked['cut']:,} training texts are longer than --max-length {checked['max_length']}")
    lines += checked["fitted"]
    for finding in checked["findings"][:FINDINGS_SHOWN]:
        lines.append(f"{'!' if finding['stops'] else '-'} {finding['message']}: {finding['action']}")
        lines += [f"    {example}" for example in finding["examples"][:2]]
    left = len(checked["findings"]) - FINDINGS_SHOWN
    lines += [f"  and {left} more (--json shows all)"] if left > 0 else []
    return "\n".join([*lines, *(["nothing stands in the way of training"] if checked["trainable"] else [])])


def _classes_lines(checked: Result) -> list[str]:
    """Rows of each label by split, the most frequent first."""
    classes = checked["classes"]
    if not classes:
        return []
    splits = [name for name in classes[0] if name != "label"]
    width = max(5, *(len(row["label"]) for row in classes[:LABELS_SHOWN]))
    skew = f", {checked['imbalance']:g}:1 from the most frequent to the rarest" if checked["imbalance"] else ""
    lines = [f"{len(classes)} labels{skew}", f"  {'label':<{width}}" + "".join(f"{name:>12}" for name in splits)]
    for row in classes[:LABELS_SHOWN]:
        lines.append(f"  {row['label']:<{width}}" + "".join(f"{row[name]:>12,}" for name in splits))
    left = len(classes) - LABELS_SHOWN
    return lines + ([f"  and {left} rarer labels"] if left > 0 else [])


def report_table(report: Result) -> str:
    """A report's headline and its class table."""
    low, high = report["accuracy_ci"]
    lines = [f"{report['split']}: accuracy {report['accuracy']:.4f} (95 % {low:.4f} to {high:.4f}), {report['n']} rows"]
    if report["adapter_scale"] != 1:
        lines[0] += f", adapters times {report['adapter_scale']:g}"
    for mean, ending in (("weighted", ""), ("macro", "_macro")):
        named = "  ".join(f"{name} {report[name.lower() + ending]:.4f}" for name in ("Precision", "Recall", "F1"))
        lines.append(f"{mean:<8}  {named}")
    lines[-1] += " (95 % {:.4f} to {:.4f})".format(*report["f1_macro_ci"])
    lines += _certainty_lines(report)
    width = max(len("class"), *(len(row["label"]) for row in report["per_class"]))
    lines.append(f"{'class':<{width}}  accuracy  precision      F1     right  most often taken for")
    for row in report["per_class"]:
        taken = ", ".join(f"{c['label']} {c['count']}" for c in row["top_confusions"])
        right = f"{row['correct']}/{row['total']}"
        figures = f"{row['accuracy']:>8.4f}  {row['precision']:>9.4f}  {row['f1']:.4f}  {right:>8}"
        lines.append(f"{row['label']:<{width}}  {figures}  {taken}")
    for by in report["slices"]:
        lines += _slice_lines(by)
    lines += _robustness_lines(report)
    if report["flips"] is not None:
        lines.append(flips_line(report["flips"]))
    if report["test_reads"] is not None:
        lines.append(f"test read {times(report['test_reads'])}")
    return "\n".join(lines)


def _certainty_lines(report: Result) -> list[str]:
    """Calibration, and what is left where the least certain rows abstain."""
    tenth = min(report["risk_coverage"], key=lambda point: abs(point["coverage"] - 0.9))
    rest = f"without the least certain {100 * (1 - tenth['coverage']):.0f} %: accuracy {tenth['accuracy']:.4f}"
    lines = [f"calibration error (ECE) {report['ece']:.4f}; {rest}"]
    abstain = report["abstain"]
    if abstain:
        share = f"{abstain['n']:,} of {report['n']:,} rows ({100 * abstain['coverage']:.1f} %) have a label"
        right = "no row is left"
        if abstain["n"]:
            right = "accuracy {:.4f} (95 % {:.4f} to {:.4f})".format(abstain["accuracy"], *abstain["accuracy_ci"])
        lines.append(f"abstaining below {abstain['below']:g}: {share}, {right}")
    return lines


def _slice_lines(by: Result) -> list[str]:
    width = max(len(by["by"]), *(len(row["slice"]) for row in by["rows"]))
    lines = [f"{by['by']:<{width}}      rows  accuracy"]
    for row in by["rows"]:
        low, high = row["accuracy_ci"]
        lines.append(f"{row['slice']:<{width}}  {row['n']:>8,}  {row['accuracy']:>8.4f}  ({low:.4f} to {high:.4f})")
    return lines


def _robustness_lines(report: Result) -> list[str]:
    if not report["robustness"]:
        return []
    lines = ["texts changed   accuracy     drop  95 %                 labels that differ"]
    for row in report["robustness"]:
        low, high = row["drop_ci"]
        figures = f"{row['accuracy']:>8.4f}  {row['drop']:>+7.4f}  {f'{low:+.4f} to {high:+.4f}':<19}"
        lines.append(f"{row['change']:<14}  {figures}  {row['flipped']:,}")
    return lines


def flips_line(flips: Result) -> str:
    """What the comparison with --precise found."""
    found = f"{flips['n']} of {flips['rows']:,} labels differ from --precise"
    if flips["n"]:
        found += f" ({100 * flips['share']:.2f} %; margins {', '.join(f'{m:.3f}' for m in flips['margins'])})"
    return f"{found}; the {flips['checked']:,} nearest to a tie compared, logits moved by {flips['moved']:.3f} at most"


TEXTS_SHOWN, TEXT_WIDTH = 3, 90  # changed texts of a pair, and characters of each


def compare_table(result: Result) -> str:
    """A line for each thing, then for each pair whether it differs and the surest texts that changed."""
    things, pairs = result["things"], result["pairs"]
    width = max(4, *(len(thing["name"]) for thing in things))
    lines = [f"{result['split']}: {result['n']:,} rows of {result['data']}"]
    lines.append(f"{'name':<{width}}  seeds  parameters  accuracy  {'95 %':<18}      sd  macro-F1")
    for thing in things:
        low, high = thing["accuracy_ci"]
        count, sd = thing["trainable_parameters"], thing["sd"]
        figures = f"{len(thing['runs']):>5}  {'?' if count is None else f'{count:,}':>10}  {thing['accuracy']:>8.4f}"
        figures += (
            f"  {f'{low:.4f} to {high:.4f}':<18}  {'' if sd is None else f'{sd:.4f}':>6}  {thing['f1_macro']:.4f}"
        )
        lines.append(f"{thing['name']:<{width}}  {figures}")
    for pair in pairs:
        lines += ["", *_pair_lines(pair, len(pairs))]
    reads = [f"{thing['name']} {times(max(thing['test_reads']))}" for thing in things if any(thing["test_reads"])]
    return "\n".join(lines + ([f"\ntest read: {', '.join(reads)}"] if reads else []))


def _pair_lines(pair: Result, pairs: int) -> list[str]:
    low, high = pair["difference_ci"]
    chance = f"p {pair['p']:.4f}" + (f", {pair['p_corrected']:.4f} among {pairs} pairs" if pairs > 1 else "")
    test = {"mcnemar": "McNemar", "bootstrap": "bootstrap of rows and seeds"}[pair["test"]]
    if pair["only_b_right"] is not None:
        chance += f": {pair['only_b_right']} rows only the second gets right, {pair['only_a_right']} only the first"
    lines = [
        f"{pair['a']} -> {pair['b']}: {pair['verdict']}",
        f"  {pair['difference']:+.4f} (95 % {low:+.4f} to {high:+.4f}); {test}'s {chance}",
        f"  {pair['changed']:,} labels changed" + ("; both sides surest:" if pair["texts"] else ""),
    ]
    for one in pair["texts"][:TEXTS_SHOWN]:
        was, now = (f"{one[side]} ({one[f'probability_{side}']:.2f})" for side in ("a", "b"))
        lines += [f"    {was} -> {now}, is {one['label']}: {_shortened(one['text'])}"]
    return lines


def _shortened(text: str) -> str:
    flat = " ".join(text.split())
    return flat if len(flat) <= TEXT_WIDTH else f"{flat[: TEXT_WIDTH - 3]}..."


SUSPECTS_SHOWN, PAIRS_SHOWN = 20, 12


def suspects_table(found: Result) -> str:
    """How many labels look wrong, by pair of labels; the most suspect rows."""
    suspects, pairs, judged = found["suspects"], found["pairs"], found["judged"]
    lines = [
        f"{len(suspects):,} of {judged:,} labels aren't the likeliest, {sum(s['sure'] for s in suspects):,} of them "
        f"look wrong for sure; about {found['estimated']:,} ({100 * found['estimated'] / judged:.1f} %) wrong by those "
        "counts",
        f"out of fold {100 * found['agreement']:.1f} % of labels are the likeliest (cross-entropy "
        f"{found['cross_entropy']:.4f}, {found['folds']} folds, near-duplicates together)",
    ]
    left = found["rows"] - judged
    lines += [f"{left:,} rows aren't judged: their label is nowhere else"] if left else []
    width = max(5, *(len(pair["given"]) for pair in pairs)) if pairs else 0
    other = max(9, *(len(pair["suggested"]) for pair in pairs)) if pairs else 0
    lines += [f"{'given':<{width}}  {'suggested':<{other}}  suspects  estimated"] if pairs else []
    for pair in pairs[:PAIRS_SHOWN]:
        counts = f"{pair['suspects']:>8,}  {pair['estimated']:>9,.0f} ({100 * pair['share']:.1f} % of the given)"
        lines.append(f"{pair['given']:<{width}}  {pair['suggested']:<{other}}  {counts}")
    lines += [f"and {len(pairs) - PAIRS_SHOWN} more pairs"] if len(pairs) > PAIRS_SHOWN else []
    for one in suspects[:SUSPECTS_SHOWN]:
        labels = f"{one['given']} ({one['score']:.3f}) -> {one['suggested']} ({one['probability']:.3f})"
        sure = "" if one["sure"] else " perhaps"
        lines.append(f"row {one['row'] + 1} of {one['file']}:{sure} {labels}: {_shortened(one['text'])}")
    more = len(suspects) - SUSPECTS_SHOWN
    where = f"all in {found['out']}" if found["out"] else "--out FILE writes all"
    return "\n".join(lines + ([f"and {more:,} more; {where}"] if more > 0 else [where] if suspects else []))


def doctor_table(facts: Result) -> str:
    """What `textlora doctor` found, a line for each subject, warnings last."""
    machine, versions, base, hub = (facts[key] for key in ("machine", "versions", "base", "hub"))
    names = ("textlora", "python", "torch", "transformers", "peft")
    gpus = [f"{gpu['name']}{_gigabytes(gpu['memory_bytes'])}" for gpu in facts["gpus"]]
    free = _gigabytes(machine["memory_free_bytes"]), _gigabytes(machine["disk_free_bytes"])
    rows = {
        "versions": ", ".join(f"{name} {versions[name]}" for name in names),
        "machine": f"{machine['system']} {machine['machine']}, {' '.join(machine['isa']) or 'plain'}",
        "CPUs": f"{machine['cores']} cores, {machine['usable_cpus']:g} CPUs usable, torch's threads: "
        f"{machine['threads']}; {machine['busy']:.0%} busy",
        "memory": f"{machine['memory_bytes'] / 1e9:.1f} GB{free[0]} free",
        "disk": f"{free[1].strip(', ')} free here",
        "GPU": "; ".join(gpus) or "none",
        "base": f"{base['name']}, {base['present']}",
        "hub": f"{hub['endpoint']}, {_reached(hub)}",
        "device": facts["device"],
        "precision": f"{facts['precision']['dtype']}: {facts['precision']['why']}",
        "engine": f"{facts['engine']['name']}: {facts['engine']['why']}",
        "speed": _speed(facts["speed"]),
    }
    lines = [f"{name:<11}{text}" for name, text in rows.items()]
    return "\n".join([*lines, *(f"WARNING: {line}" for line in facts["warnings"])])


def _gigabytes(size: int | None) -> str:
    return "" if size is None else f", {size / 1e9:.1f} GB"


def _reached(hub: Result) -> str:
    return "not asked: offline" if hub["offline"] else "answers" if hub["reachable"] else "doesn't answer"


def _speed(speed: Result | None) -> str:
    if speed is None:
        return "not measured"
    if "error" in speed:
        return f"not measured: {speed['error']}"
    trained, predicted = speed["train_samples_per_second"], speed["predict_samples_per_second"]
    return f"{trained:.0f} texts a second trained, {predicted:.0f} predicted ({speed['of']})"


def bench_table(result: Result) -> str:
    """A benchmark as a table: a line for each side, ours first, the limit last."""
    precise = f"{result['isa']}, {result['threads']} threads, {result['precision']}"
    lines = [f"{result['what']}: {result['base']} ({result['base_weights']} weights), {result['data']}, {precise}"]
    return "\n".join(lines + (_train_lines(result) if result["what"] == "train" else _predict_lines(result)))


def _train_lines(result: Result) -> list[str]:
    lines = [f"{'texts/s':>22}  {'least to most':>16}  {'tokens/s':>9}  {'memory':>8}  ours is"]
    plain = {"plain": result["plain"]} if result["plain"] else {}
    ratios = result["ratio_to_peers"] | {"plain": result["ratio_to_plain"]}
    for name, side in {"ours": result["ours"], **plain, **result["peers"], "limit": result["limit"]}.items():
        low, high = side["spread"]
        memory = f"{side['training_rss_bytes'] / 1e9:.2f} GB" if "training_rss_bytes" in side else ""
        ratio = f"{ratios[name]:.1f}x" if ratios.get(name) else ""
        ratio = f"{result['limit_share']:.2f} of it" if name == "limit" else ratio
        rate = f"{side['samples_per_second']:.1f}"
        spread = f"{low:.1f} to {high:.1f}"
        lines.append(f"{name:<15}{rate:>7}  {spread:>16}  {side['tokens_per_second']:>9,.0f}  {memory:>8}  {ratio}")
    return lines + [f"{name}: not measured: {why}" for name, why in result["not_measured"].items()]


def _predict_lines(result: Result) -> list[str]:
    lines = [f"{'texts/s':>25}  {'least to most':>16}  {'one: p50':>8}  {'p99':>8}  {'flips':>5}  ours is"]
    for name, side in {"ours": result["ours"], **result["peers"]}.items():
        low, high = side["spread"]
        rate, spread = f"{side['samples_per_second']:.1f}", f"{low:.1f} to {high:.1f}"
        alone = f"{side['p50_ms']:>5.2f} ms  {side['p99_ms']:>5.2f} ms"
        ratio = f"{result['ratio_to_peers'][name]:.1f}x" if name in result["ratio_to_peers"] else ""
        lines.append(f"{name:<18}{rate:>7}  {spread:>16}  {alone}  {side['flips']['count']:>5}  {ratio}")
    return lines + [f"{name}: not measured: {why}" for name, why in result["not_measured"].items()]


def search_table(found: Result) -> str:
    """A search: its trials best first, the winner's parameters, what the trials cost, what survives."""
    objective, front = found["objective"], set(found["front"])
    finished = sorted((t for t in found["trials"] if t["ended"] == "finished"), key=lambda t: -t[objective])
    others = [t for t in found["trials"] if t["ended"] != "finished"]
    rows = [f"{'trial':>6} {objective:>9} {'parameters':>11} {'seconds':>8} {'texts':>9}"]
    for t in (*finished, *others):
        score = f"{t[objective]:.4f}" if t["ended"] == "finished" else t["ended"]
        mark = "best" if t["number"] == found["best"]["number"] else "on the front" if t["number"] in front else ""
        cost = f"{t['parameters']:>11,} {t['seconds']:>8.0f} {t['texts']:>9,}"
        rows += [f"{t['number']:>6} {score:>9} {cost}  {mark}".rstrip()]
    unfinished = {"running": found["running"], "waiting": found["waiting"]}
    rows += [f"  {count} {state}, of other processes or for the next" for state, count in unfinished.items() if count]
    rows += ["", f"best, trial {found['best']['number']}, within the budget of {found['budget']:,}:"]
    rows += [f"  {key:<30}{_short(value)}" for key, value in found["best"]["params"].items()]
    share = found["texts_in_full"] / max(1, found["texts"])
    rows += ["", f"the trials saw {found['texts']:,} of {found['texts_in_full']:,} texts, 1/{share:.1f} of the work"]
    rows += (found["confirmed"] or {}).get("words", [])
    rows += [f"{found['out']}: best.toml (textlora train --recipe), trials/, search.json, pictures/"]
    return "\n".join(rows)


def _short(value: Any) -> str:
    return f"{value:.4g}" if isinstance(value, float) else str(value)


def times(count: int) -> str:
    """`once`, or `n times`."""
    return "once" if count == 1 else f"{count} times"
