"""The words of a report, in English and Chinese, in one table. Numbers and names are put in where braces stand."""

from __future__ import annotations

import re
from typing import Any

LANGUAGES = ("en", "zh")
HTML_LANGUAGES = {"en": "en", "zh": "zh-CN"}

_TABLE: dict[str, tuple[str, str]] = {
    "report": ("Report", "评估报告"),
    "task.classify": ("classification", "文本分类"),
    "task.classify.multi": ("multi-label classification", "多标签分类"),
    "task.tag": ("entity tagging", "实体标注"),
    "on_rows": ("measured on {n} test rows, {labels} labels", "在 {n} 条测试数据上测得，共 {labels} 个标签"),
    "interval": ("95% interval {low} to {high}", "95% 区间 {low} 至 {high}"),
    "interval.column": ("95% interval", "95% 区间"),
    "range": ("{low} to {high}", "{low} 至 {high}"),
    "score.accuracy": ("Accuracy", "准确率"),
    "score.macro_f1": ("Macro F1", "宏平均 F1"),
    "score.weighted_f1": ("Weighted F1", "加权 F1"),
    "score.micro_f1": ("Micro F1", "微平均 F1"),
    "score.macro_precision": ("Macro precision", "宏平均精确率"),
    "score.macro_recall": ("Macro recall", "宏平均召回率"),
    "score.auroc": ("AUROC, one against the rest", "AUROC（一对其余）"),
    "score.ece": ("Calibration error", "校准误差"),
    "score.coverage": ("Share answered", "作答比例"),
    "score.selective_accuracy": ("Accuracy where answered", "作答部分的准确率"),
    "score.subset_accuracy": ("All labels right", "标签全对的比例"),
    "score.hamming": ("Hamming loss", "汉明损失"),
    "score.label_ranking": ("Label ranking precision", "标签排序精确率"),
    "score.f1": ("Entity F1", "实体 F1"),
    "score.precision": ("Precision", "精确率"),
    "score.recall": ("Recall", "召回率"),
    "about.accuracy": ("rows answered rightly; no answer counts as wrong", "答对的数据所占比例；未作答算错"),
    "about.macro_f1": ("mean of the labels' F1, rare ones count as much", "各标签 F1 的平均，少见标签同样重要"),
    "about.weighted_f1": ("mean of the labels' F1, by how often they occur", "按出现次数加权的 F1 平均"),
    "about.micro_f1": ("F1 over all answers together", "把所有回答合在一起的 F1"),
    "about.macro_precision": ("how far an answer can be trusted, mean over labels", "回答有多可信，按标签平均"),
    "about.macro_recall": ("how much is found, mean over labels", "找回了多少，按标签平均"),
    "about.auroc": ("how well right rows rank above wrong ones; a half is chance", "正例排在前面的程度；0.5 为随机"),
    "about.ece": ("how far probabilities are from the truth; lower is better", "概率与实际的差距；越低越好"),
    "about.coverage": ("the others are held back as too unsure", "其余因把握不足而未作答"),
    "about.selective_accuracy": ("among the rows that were answered", "只算作答的数据"),
    "about.subset_accuracy": ("rows with exactly the right labels", "标签完全正确的数据比例"),
    "about.hamming": ("share of single decisions that are wrong; lower is better", "单个判断出错的比例；越低越好"),
    "about.label_ranking": (
        "how far right labels come first by probability, whatever the thresholds",
        "正确标签按概率排在前面的程度，与阈值无关",
    ),
    "about.f1": ("edges and label both right, over all entities", "边界与标签都对才算，合计所有实体"),
    "about.precision": ("entities given that are right", "给出的实体中正确的比例"),
    "about.recall": ("entities in the text that were found", "文中实体被找到的比例"),
    "model.this": ("This model", "本模型"),
    "model.majority": ("Commonest answer", "最常见的答案"),
    "model.tfidf": ("TF-IDF + regression", "TF-IDF + 逻辑回归"),
    "model.probe": ("Linear probe", "线性探针"),
    "model.majority.tag": ("Dictionary of tokens", "词典"),
    "model.tfidf.tag": ("Linear tagger", "线性标注器"),
    "model.uncompressed": ("Uncompressed", "未压缩"),
    "frontier.title": ("What a smaller model costs", "更小的模型要付出什么"),
    "frontier.chosen": (
        "Chosen: {plan}. {smaller} times smaller, {faster} times faster.",
        "选定：{plan}。体积为原来的 1/{smaller}，速度为原来的 {faster} 倍。",
    ),
    "frontier.none": ("No plan was chosen.", "尚未选定方案。"),
    "frontier.on_test": (
        "On the test rows it loses {lost} points, between {low} and {high} with 95% certainty.",
        "在测试数据上损失 {lost} 个百分点，95% 区间为 {low} 至 {high}。",
    ),
    "frontier.how": (
        "Measured on validation rows and on this machine, each plan in turn with the uncompressed model. "
        "Filled points are on the frontier: nothing tried beats them in size, latency and quality at once.",
        "在验证数据和本机上测得，每个方案与未压缩模型交替计时。实心点位于前沿：没有方案在体积、延迟和质量上同时胜过它。",
    ),
    "frontier.plan": ("Plan", "方案"),
    "frontier.uncompressed": ("uncompressed", "未压缩"),
    "frontier.size": ("MB", "MB"),
    "frontier.smaller": ("Smaller", "缩小倍数"),
    "frontier.latency": ("ms", "毫秒"),
    "frontier.p99": ("p99 ms", "p99 毫秒"),
    "frontier.faster": ("Faster", "提速倍数"),
    "frontier.rate": ("Rows/s", "条/秒"),
    "frontier.lost": ("Points lost", "损失（百分点）"),
    "frontier.size_axis": ("Size of the bundle, MB", "模型包大小，MB"),
    "frontier.latency_axis": ("Median time of one answer, ms", "单条回答时间中位数，毫秒"),
    "gain.title": ("What fine-tuning bought", "微调带来了什么"),
    "gain.better": (
        "Fine-tuning is {difference} points better than the best baseline, {name}. "
        "That is more than chance: between {low} and {high}.",
        "微调比最好的基线“{name}”高 {difference} 个百分点，不是偶然：在 {low} 到 {high} 之间。",
    ),
    "gain.unclear": (
        "This model and the best baseline, {name}, can't be told apart on these rows: the difference is {difference} "
        "points, between {low} and {high}.",
        "在这些数据上，本模型与最好的基线“{name}”分不出高下：相差 {difference} 个百分点，在 {low} 到 {high} 之间。",
    ),
    "gain.worse": (
        "The best baseline, {name}, is better than this model by {difference} points, between {low} and {high}: "
        "use it, or train anew.",
        "最好的基线“{name}”比本模型高 {difference} 个百分点，在 {low} 到 {high} 之间：请改用它，或重新训练。",
    ),
    "gain.rows": (
        "Of {n} rows, {mine} only this model has right, {others} only the baseline.",
        "{n} 条数据中，{mine} 条只有本模型答对，{others} 条只有基线答对。",
    ),
    "gain.none": ("No baseline was measured.", "没有测基线。"),
    "gain.baseline": ("Baseline", "基线"),
    "gain.difference": ("This model's lead", "本模型领先"),
    "gain.only": ("Right only here / only there", "仅本模型对 / 仅基线对"),
    "gain.p": ("p (McNemar)", "p 值（McNemar）"),
    "points": ("{value} points", "{value} 个百分点"),
    "remarks.title": ("Worth knowing", "值得注意"),
    "remark.held_back": (
        "{share} of the rows are held back as too unsure, and count as wrong above. Of those answered {right} are "
        "right; with nothing held back, {unheld} would be.",
        "有 {share} 的数据因把握不足而未作答，在上面的分数中算错。"
        "作答的部分中有 {right} 答对；若全部作答，准确率为 {unheld}。",
    ),
    "remark.few_rows": (
        "With {n} test rows the interval of the main score is {width} points wide; more of them would narrow it.",
        "测试数据有 {n} 条，主要分数的区间宽达 {width} 个百分点；增加测试数据才能缩小。",
    ),
    "remark.slice": (
        "Clearly worse where {by} is {value}: {score} against {rest} elsewhere.",
        "在“{by}”为 {value} 的数据上明显更差：{score}，其余为 {rest}。",
    ),
    "remark.overconfident": (
        "Probabilities are too high: {ece} off on average. Calibrate before relying on them.",
        "概率偏高：平均偏差 {ece}。使用前请先校准。",
    ),
    "remark.underconfident": ("Probabilities are too low: {ece} off on average.", "概率偏低：平均偏差 {ece}。"),
    "remark.suspects": (
        "{n} test rows may be labelled wrongly; see below before blaming the model.",
        "有 {n} 条测试数据的标注可能有误；归咎于模型之前请先看下文。",
    ),
    "remark.rare": (
        "{n} of {of} labels have fewer than {least} test rows each, so their own scores say little: {labels}.",
        "{of} 个标签中有 {n} 个的测试数据不足 {least} 条，它们各自的分数参考价值有限：{labels}。",
    ),
    "remark.unseen": (
        "The test rows have labels that the model does not know: {labels}.",
        "测试数据中有模型不认识的标签：{labels}。",
    ),
    "remark.never": ("Never predicted although they occur: {labels}.", "出现过却从未被预测的标签：{labels}。"),
    "remark.nothing": ("Nothing stands out.", "没有特别需要注意的地方。"),
    "scores.title": ("All scores", "全部分数"),
    "score": ("Score", "分数"),
    "value": ("Value", "数值"),
    "measured_on": ("On", "样本数"),
    "trust.title": ("Can the probabilities be trusted?", "概率可信吗？"),
    "trust.reliability": ("Reliability", "可靠性"),
    "trust.reliability.about": (
        "When the model says 80%, is it right 8 times in 10? Dots on the line: yes. Above it: right more often than "
        "it says; below: less often. Bars tell how many answers each dot stands for.",
        "模型说 80% 时，是否十次有八次正确？点在线上：是；在线上方：比它说的更准；在线下方：没那么准。"
        "柱形表示每个点对应多少回答。",
    ),
    "trust.said": ("probability given", "给出的概率"),
    "trust.was": ("share right", "实际正确的比例"),
    "trust.risk": ("Holding back unsure answers", "不确定时不作答"),
    "trust.risk.about": (
        "Accuracy if only the surest answers are given and the rest are passed on to a person.",
        "只给出最有把握的回答、其余转交人工时的准确率。",
    ),
    "trust.risk.about.tag": ("Precision if only the surest entities are kept.", "只保留最有把握的实体时的精确率。"),
    "trust.coverage": ("share answered", "作答比例"),
    "trust.accuracy": ("right among them", "其中正确的比例"),
    "trust.wanted": ("Wanted precision", "想要的精确率"),
    "trust.answered": ("Would answer", "可作答"),
    "trust.from": ("From probability", "概率下限"),
    "trust.unreachable": ("not reached", "达不到"),
    "trust.note": (
        "Seen on the test rows, for orientation: the threshold in use is chosen on validation rows.",
        "这是在测试数据上看到的，仅供参考：实际使用的阈值是在验证数据上选择的。",
    ),
    "labels.title": ("Label by label", "逐个标签"),
    "labels.sort": ("Sort by", "排序"),
    "labels.f1": ("F1, worst first", "F1（差的在前）"),
    "labels.name": ("Name", "名称"),
    "labels.precision": ("Precision", "精确率"),
    "labels.recall": ("Recall", "召回率"),
    "labels.support": ("Test rows", "测试条数"),
    "labels.support.tag": ("In test", "测试中出现"),
    "labels.label": ("Label", "标签"),
    "labels.threshold": ("Threshold", "阈值"),
    "confusion.title": ("What is taken for what", "什么被当成了什么"),
    "confusion.about": (
        "Rows are what is right, columns what was answered; the darker, the larger the share of the row.",
        "行是正确答案，列是模型的回答；颜色越深，占该行的比例越大。",
    ),
    "confusion.gold": ("Right", "正确"),
    "confusion.given": ("Answered", "回答"),
    "confusion.n": ("Times", "次数"),
    "confusion.share": ("of all", "占比"),
    "confusion.examples": ("For example", "例如"),
    "confusion.empty": ("No label was taken for another.", "没有标签被混淆。"),
    "none": ("none", "无"),
    "entities.title": ("How entities went wrong", "实体错在哪里"),
    "entities.exact": ("right", "正确"),
    "entities.wrong_label": ("right edges, wrong label", "边界对，标签错"),
    "entities.wrong_edges": ("right label, wrong edges", "标签对，边界错"),
    "entities.wrong_both": ("overlaps, all else wrong", "有重叠，边界和标签都错"),
    "entities.missed": ("missed", "漏掉"),
    "entities.made_up": ("made up", "多报"),
    "slices.title": ("Where it is better or worse", "哪里更好、哪里更差"),
    "slices.about": (
        "Slices of the test rows against all other rows. A mark stands where one is clearly worse, "
        "with allowance for how many were looked at.",
        "测试数据的各个切片与其余数据相比。确实更差的会标出，并已考虑切片的数目。",
    ),
    "slices.by": ("By", "按"),
    "slices.value": ("Slice", "切片"),
    "slices.below": ("worse", "更差"),
    "slices.length": ("length (words or characters)", "长度（词或字）"),
    "slices.script": ("script", "文字"),
    "script.han": ("Chinese characters", "汉字"),
    "script.latin": ("Latin letters", "拉丁字母"),
    "script.kana": ("Japanese", "日文"),
    "script.hangul": ("Korean", "韩文"),
    "script.cyrillic": ("Cyrillic", "西里尔字母"),
    "script.arabic": ("Arabic", "阿拉伯字母"),
    "script.devanagari": ("Devanagari", "天城文"),
    "script.thai": ("Thai", "泰文"),
    "script.greek": ("Greek", "希腊字母"),
    "script.hebrew": ("Hebrew", "希伯来字母"),
    "script.none": ("no letters", "无文字"),
    "rows": ("Rows", "条数"),
    "errors.title": ("The surest mistakes", "最有把握的错误"),
    "errors.about": (
        "Wrong answers that the model was surest of: often the quickest way to see what to mend in the data.",
        "模型最有把握却答错的数据：往往最能看出数据该怎么改。",
    ),
    "errors.none": ("There are none.", "没有。"),
    "errors.row": ("Row", "行"),
    "errors.text": ("Text", "文本"),
    "errors.sure": ("Said", "概率"),
    "errors.right": ("right", "正确"),
    "errors.given": ("given", "回答"),
    "nothing": ("(nothing)", "（无）"),
    "suspects.title": ("Test rows whose label may be wrong", "可能标错的测试数据"),
    "suspects.gold": ("Labelled", "标注为"),
    "suspects.given": ("Models say", "模型认为"),
    "suspects.about": (
        "The model is sure of another label, and so is every other model that can tell rows apart ({models}). "
        "{n} rows; have a person look at them.",
        "模型确信是另一个标签，其他能区分数据的模型（{models}）也都同意。共 {n} 条，请人工查看。",
    ),
    "data.title": ("Data and settings", "数据与设置"),
    "data.digests": ("What was measured, by SHA-256", "测的是什么（SHA-256）"),
    "digest.data": ("data", "数据"),
    "digest.project": ("project", "项目"),
    "digest.graph": ("graph", "计算图"),
    "data.calibration": ("Calibration", "校准"),
    "data.settings": ("Project", "项目"),
    "calibration.temperature": ("temperature", "温度"),
    "calibration.abstain_below": ("no answer below", "低于此概率不作答"),
    "costs.title": ("What it took", "花了多少"),
    "cost.train_s": ("training", "训练"),
    "cost.evaluate_s": ("evaluation", "评估"),
    "cost.export_s": ("export", "导出"),
    "cost.check_s": ("check", "检查"),
    "cost.probe_s": ("linear probe", "线性探针"),
    "cost.total_s": ("all stages", "全部阶段"),
    "cost.prepare_s": ("data", "数据准备"),
    "cost.peak_memory_mb": ("most memory", "内存峰值"),
    "cost.predicted_rows_per_s": ("prediction", "预测速度"),
    "cost.memory_mb": ("most memory", "内存峰值"),
    "cost.rows_per_s": ("prediction", "预测速度"),
    "cost.examples_per_s": ("training speed", "训练速度"),
    "cost.size_mb": ("size of the model", "模型大小"),
    "cost.latency_ms": ("one answer", "单次回答"),
    "cost.parameters": ("parameters", "参数量"),
    "unit.s": ("{value} s", "{value} 秒"),
    "unit.min": ("{value} min", "{value} 分钟"),
    "unit.ms": ("{value} ms", "{value} 毫秒"),
    "unit.mb": ("{value} MB", "{value} MB"),
    "unit.per_s": ("{value} a second", "每秒 {value} 条"),
    "footer": (
        "Intervals hold the true value 95 times in 100: from 1,000 resamples of the test rows (F1), Wilson's formula "
        "(shares), DeLong's (AUROC). Every number was measured on rows that training never saw.",
        "区间在 100 次中有 95 次包含真值：F1 由测试数据重采样 1,000 次得到，比例用 Wilson 公式，AUROC 用 DeLong 方法。"
        "所有数字都在训练未见过的数据上测得。",
    ),
}


class Words:
    """The words of one language."""

    def __init__(self, language: str) -> None:
        if language not in LANGUAGES:
            raise ValueError(f"language {language!r} of a report: known are {', '.join(LANGUAGES)}")
        self.language = language
        self._place = LANGUAGES.index(language)

    def __call__(self, key: str, **values: Any) -> str:
        """Return the words of a key with values put in.

        Raises:
            KeyError: there is no such key.
        """
        text = _TABLE[key][self._place]
        return text.format(**values) if values else text

    def get(self, key: str, otherwise: str) -> str:
        """Return the words of a key, or others where there is no such key."""
        return _TABLE[key][self._place] if key in _TABLE else otherwise

    def score(self, name: str) -> str:
        """Return a score's name; an unknown one's own, with spaces."""
        return self.get(f"score.{name}", name.replace("_", " "))

    def about(self, name: str) -> str:
        """Return one line on what a score means; nothing for an unknown one."""
        return self.get(f"about.{name}", "")

    def model(self, name: str, task: str) -> str:
        """Return what a baseline is called."""
        return self.get(f"model.{name}.{task}", self.get(f"model.{name}", name))

    def label(self, name: str) -> str:
        """Return a label, or what stands for none."""
        return name or self("none")

    def slice_value(self, by: str, value: str) -> str:
        """Return a slice's value in words."""
        if by == "script":
            return " + ".join(self.get(f"script.{part}", part) for part in value.split("+"))
        return value.replace("-", "–") if by == "length" else value or self("nothing")

    def cost(self, name: str, value: float) -> tuple[str, str]:
        """Return what a cost is called, and its value with the unit that its name ends with."""
        called = self.get(f"cost.{name}", name.replace("_", " "))
        if name.endswith("_per_s"):
            return called, self("unit.per_s", value=number(value))
        if name.endswith("_ms"):
            return called, self("unit.ms", value=number(value))
        if name.endswith("_s") and value >= 120:
            return called, self("unit.min", value=number(value / 60))
        if name.endswith("_s"):
            return called, self("unit.s", value=number(value))
        if name.endswith("_mb"):
            return called, self("unit.mb", value=number(value))
        return called, number(value)


_UNPRINTABLE = re.compile("[\x00-\x08\x0b\x0c\x0e-\x1f\x7f-\x9f\u2028\u2029\ud800-\udfff]")


def printable(text: str) -> str:
    """Return a text that a page may hold: control characters and halves of characters would break it."""
    return _UNPRINTABLE.sub("\ufffd", text)


def number(value: float) -> str:
    """Return a number with at most three digits that count, and commas between thousands."""
    if value == int(value) or abs(value) >= 100:
        return f"{value:,.0f}"
    return f"{value:.3g}"


def percent(value: float, digits: int = 1) -> str:
    """Return a share as per cent."""
    return f"{100 * value:.{digits}f}%"


def points(value: float) -> str:
    """Return a difference of shares in points, with its sign."""
    shown = f"{100 * value:+.1f}"
    return shown.replace("-", "−") if float(shown) else "0.0"
