"""Recall and precision of masking, by kind, on made-up sentences; false alarms on real ones; texts a second.

The values come from faker, the sentences from templates here. The recognisers were developed on the templates
DEVELOPED; the figures are those on JUDGED, by recognisers that were not changed after they had been run on them.

    python bench/mask.py --sentences 1000 --data ../shared/data
    python bench/mask.py --data ../shared/data --names-by names/runs/names/bundle --label PER=name

With `--names-by` everything is measured by rules alone and by both; `taggers/names.py` makes a project for one.
"""

from __future__ import annotations

import argparse
import json
import random
import re
import string
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

from luban.data.personal import KINDS, Finder, find_all, find_personal

DEVELOPED = {
    "en": """
        My name is {name} and my phone number is {phone}.
        Hi, this is {name}, please call me back at {phone}.
        I paid with my card {card} but it was declined.
        You can reach {name} at {email}.
        My SSN is {ssn}, do you need anything else?
        Please send the new card to {address}.
        The transfer to {name} with IBAN {iban} has not arrived.
        Somebody logged in from {ip}, and it was not me.
        My passport number is {passport}.
        The car with license plate {plate} is parked in my spot.
        Dear {name}, we have received your request.
        Mr. {last} told me to write to {email}.
        I live at {address}, how long does delivery take?
        Can you change my email from {email} to {email}?
        {name} sent me money yesterday and I still can't see it.
        I want to add {name} to my account, her number is {phone}
        Why was card number {card} charged twice?
        Regards, {name}
        hello my name is {lower_name} and i lost my card
        Text {phone} if you find my wallet
        Dr. {last} is my doctor and her office is at {address}.
        connect with postgres://{user}:{password}@db.example.org/prod
        Your order was shipped to {name}, {address}.
        I spoke with {first} yesterday about a refund to {card}.
        My mother {name} has lost her passport {passport}.
        Account holder: {name}, IBAN: {iban}
        Block {ip} please, it keeps trying passwords for {email}.
        social security number {ssn}, name {name}
        Please ask {first} to call {phone}.
        The patient {name} was admitted this morning.
        Could you update the number on file to {phone}? Thanks, {name}
        I'm {name}, and someone used my Visa {card} in another country.
        The landlord's name is {name}; his account is {iban}.
        For verification: {ssn}. Anything more you need from me?
        Our new office is at {address}.
        Good morning, {first} here. My cell is {phone}.
        {name} ({email}) will join the meeting at noon.
        Passport {passport}, expiring next year, belongs to my wife {name}.
        A silver Honda, plate {plate}, hit my car this afternoon.
        My last address was {address} and I moved in May.
        Forward the statement to {email} and to my accountant {name}.
        Requests from {ip} should be allowed through the firewall.
        I was told by Mrs. {last} that my refund goes to {iban}.
        can someone call {phone} about the leak
        Payment of $250 to {name} was rejected, card ending in the wrong digits, full number {card}.
        Ms. {last} from the branch asked for my social, which is {ssn}.
        We met {name} at the conference.
        Ship to: {name}, {address}
        this is {lower_name}, i forgot my pin
        The beneficiary is {name} and the IBAN reads {iban}.
        Is {phone} really your hotline?
        https://{user}:{password}@repo.example.org/simple stopped working
        Please remove {name} as an authorized user.
        He gave me his card: {name}, {phone}, {email}.
        Their server {ip} answered with an error at 10:35.
        I need a replacement for {card}, mail it to {address}.
        {name} and I opened a joint account last week.
        My husband {first} can't log in with {email}.
        Both travellers, {name} and {name}, hold passports {passport} and {passport}.
        Could you tell {name} that the parcel is here?
        Customer {name} disputes a charge on {card}.
        Fax it to {phone}, attention {name}.
        i am moving to {address} next month
        Yours sincerely, {name}
        The account of {name} was hacked from {ip}.
        Vehicle registration: {plate}; owner: {name}; phone: {phone}
        I already gave my number ({phone}) to Professor {last}.
        Send the invoice to {email}, please.
        The taxpayer with number {ssn} is {name}.
        My daughter {first} needs her own card.
    
    """,
    "zh": """
        我叫{name}，手机号是{mobile}。
        你好，我是{name}，请回电{mobile}。
        我的身份证号是{id}，帮我查一下。
        请把卡寄到{address}，收件人{name}，电话{mobile}。
        银行卡号{card}无法转账怎么办？
        联系人：{name}，座机：{landline}
        车牌{plate}违章了吗
        我的护照{passport}过期了
        {surname}先生您好，您的快递到了。
        给{name}转账一直不到账
        我的邮箱是{email}，发票发这里。
        登录IP是{ip}，不是我本人操作。
        微信号：{wechat}，加我
        {surname}女士的预约改到明天，她的电话是{mobile}
        客户{name}反映卡{card}被重复扣款
        姓名：{name} 身份证：{id} 手机：{mobile}
        地址：{address}
        我家住在{address}，多久能送到？
        请联系{name}，他的手机是{mobile}。
        持卡人{name}，卡号{card}
        昨天{name}的账户被冻结了
        {surname}老师，作业发到{email}了
        车主{name}，车牌号{plate}
        法定代表人：{name}，身份证号码{id}
        麻烦把{mobile}改成{mobile}
        数据库连接是mysql://{user}:{password}@db.example.cn/prod
        患者{name}今天出院
        打{landline}没人接，打{mobile}也不通
        乘客{name}，护照号{passport}
        我想和{name}一起办理业务
        您好，麻烦查一下{mobile}这个号码的余额，机主是{name}。
        本人{name}，身份证{id}，申请开户。
        刚才{surname}经理说可以退款到{card}
        快递送错了，应该送到{address}
        我换手机了，新号{mobile}，旧号{mobile}不用了
        {name}，男，{id}，现住{address}
        是{name}让我来问的
        这张卡{card}是我爱人{name}的
        我在{address}附近迷路了
        {plate}这辆车是谁的，挡住路了
        公司电话{landline}，找{surname}总
        出国护照号码是{passport}，名字{name}
        把发票开给{name}，邮箱{email}
        有人从{ip}登录了我的账号
        {surname}女士，请到三号窗口
        我老公叫{name}，他的卡号是{card}
        收货人: {name}; 手机: {mobile}; 地址: {address}
        报警人{name}称其车辆{plate}被盗
        加我微信 {wechat} 聊
        借款人{name}（{id}）逾期三个月
        我妈妈{name}的社保卡丢了
        请问{name}在吗？我打{mobile}找他
        身份证号码写成了{id}，应该是{id}
        户名{name}，账号{card}，开户行工商银行
        {surname}医生建议我下周复查
        邮件请抄送{email}和{email}
        昨天和{name}签了合同
        房子在{address}，租客是{name}
        jdbc地址：https://{user}:{password}@git.example.org/a.git 不能访问
        办公室{landline}转{surname}主任
        {name}同学的护照{passport}已办好
        客服您好，我是{name}，尾号不记得了，完整卡号{card}
        原告{name}与被告{name}因{plate}交通事故发生纠纷
        短信发到{mobile}就行，我姓{surname}
        给我儿子{name}办一张副卡
        服务器{ip}宕机了，联系{name}处理
        预订人：{name}，入住两晚，联系方式{mobile}
        替{name}缴费，他的手机号{mobile}
        请寄往{address}，{name}收
        {name}的手机号是不是{mobile}？
    
        麻烦帮我把预留手机改为{mobile}，谢谢
        {name}昨天下午在柜台办理了挂失
        这笔钱是转给{name}的，卡号{card}，一直没到
        开户人信息：{name}，{id}
        外卖放到{address}门口就行
        {surname}主任让我把材料发到{email}
        我父亲{name}今年七十岁，不会用手机
        有辆{plate}的车停在我家门口
        日志显示{ip}连续登录失败
        座机{landline}是你们的客服电话吗？
        您好，请问是{name}吗？
        护照{passport}的签证什么时候能办好
        和我一起去的还有{name}和{name}
        投保人姓名{name}，证件号{id}，联系电话{mobile}
        我现在住{address}，想换个近一点的网点
        我的微信是{wechat}，请加一下
        {surname}先生，您的贷款已经批了
        交易对方为{name}，金额五百元
        {name}的快递被{name}签收了
        卡{card}和卡{card}都是我的
        我们班主任{name}老师的电话是{mobile}
        ftp://{user}:{password}@files.example.cn/a.zip 下载不了
        这个手机号{mobile}注册过吗
        经查，{name}（身份证号：{id}）已还清欠款
        想给{name}开通亲情付，她的号码是{mobile}
        车辆{plate}的所有人是{name}
        法院传唤{name}到庭
        邻居{name}帮我收的快递
        紧急联系人填{name}，电话{mobile}
        {name}女士来电咨询信用卡年费
        退款请打到{name}名下，卡号是{card}
        {name}反映手机银行打不开
        我把钱错转给了{name}，怎么追回？
        住院病人{name}需要续费，家属电话{mobile}
        老师好，我是{name}的家长
        物业通知{surname}阿姨去取包裹
        报名表：{name}，{mobile}，{email}
        您的验证码已发送至{mobile}
        这套房登记在{name}和{name}两个人名下
        公司新来的{name}还没有工牌
        {id}是我的身份证号，请核实
        {name}在{address}开了一家店
        寄件地址{address}，寄件人{surname}小姐
        如有疑问请咨询{surname}律师，电话{landline}
        昨晚{name}被人骗走三万元
        尊敬的{name}客户，您尾号有误，请核对卡号{card}
        {ip}这个地址一直在攻击我们
        领导让{name}下午三点去开会
        护照号{passport}，签发给{name}
        停车费记在{plate}上
        {name}已经把材料交了
        微信 {wechat} 是骗子
        我想取消{name}的授权
        ssh://{user}:{password}@host.example.cn:22 连不上
        帮我查查{name}买的保险，身份证{id}
        会上{name}和{surname}教授都发言了
        经手人签字：{name}
        她的邮箱是{email}，手机是{mobile}
        {address}的宽带坏了，联系人是{name}
        多亏了{name}，我的问题才解决
    """,
}
JUDGED = {
    "en": """
        Good evening. I'm calling because {name} hasn't received the parcel sent to {address}.
        Is there any way to verify my identity without {ssn}?
        We changed our phone last week, now it is {phone}.
        Please note that {email} no longer works.
        The plumber, {name}, charged me twice; refund {card} please.
        {first} lost the phone with the authenticator app.
        I tried {card} and then {card}, neither of them works.
        The witness, Mr. {last}, lives at {address}.
        My colleague {name} wrote from {email} on Tuesday.
        Wire it to {iban}, reference is the invoice number.
        There were forty attempts from {ip} within one minute.
        Hello, {name} speaking. How can I close my account?
        The rental car is a blue Toyota, license plate {plate}.
        His passport ({passport}) was stolen in Rome.
        Emergency contact: {name}, {phone}
        The new tenant is {name} and she moves in on Friday.
        Return address: {name}, {address}
        git clone https://{user}:{password}@code.example.org/team/app.git fails
        According to {name}, the terminal was offline all day.
        I got a call from {phone} asking for my code.
        {name} was double charged for the gym.
        hi, my name is {lower_name} and i want to change my pin
        Did {first} approve the loan already?
        My IBAN changed from {iban} to {iban}.
        Leave the package with {name} next door.
        Signed by {name} on behalf of the company.
        SSN on the form: {ssn}. Name on the form: {name}.
        The nurse told {name} to come back at nine.
        Whoever uses {ip} is downloading our whole catalogue.
        Attached you find the passport of {name}, number {passport}.
    """,
    "zh": """
        上个月{name}搬走了，房租没交
        我要投诉工号有误的{name}
        合同甲方{name}，乙方{name}
        {name}把{mobile}留给我了
        你们的{name}态度很好
        会员卡丢了，会员名{name}，手机{mobile}
        身份证{id}和卡{card}对不上
        钥匙在{name}手里
        爸爸{name}和妈妈{name}都在老家
        退货寄到{address}，{name}，{mobile}
        接种人{name}，出生证明号有误
        那个叫{name}的骗了我两千块
        {surname}校长的讲话稿发{email}
        去年{name}借了我的护照{passport}
        投递员说{name}拒收
        帮{name}交一下电费
        把车{plate}过户给{name}
        已收到{name}的付款
        考生{name}未到场
        {name}，你的快递到了，放在{address}
        面试官是{surname}老师和{name}
        麻烦转告{name}，会议改期
        我表姐{name}在银行上班
        {landline}是{name}家的电话
        {name}等三人被表彰
        经理和{name}来过
        登录{ip}失败，微信号：{wechat}
        授权{name}代办，证件号{id}
        挂号：{name}，内科
        查无此人，请核对{name}是否写错
    """,
}
_PLACEHOLDER = re.compile(r"\{(\w+)\}")
_HIDING = 0.2
"""Share of the numbers that are written with full-width digits, spaces, dashes or invisible characters."""


class Values:
    """Makes values of each kind, from a seed."""

    def __init__(self, language: str, seed: int) -> None:
        from faker import Faker

        self.chance = random.Random(seed)
        self.fake = Faker({"en": "en_US", "zh": "zh_CN"}[language])
        self.fake.seed_instance(seed)
        fake = self.fake
        self._makers: dict[str, tuple[str, Callable[[], str]]] = {
            "name": ("name", fake.name if language == "zh" else lambda: f"{fake.first_name()} {fake.last_name()}"),
            "first": ("name", fake.first_name), "last": ("name", fake.last_name), "surname": ("name", fake.last_name),
            "lower_name": ("name", lambda: f"{fake.first_name()} {fake.last_name()}".lower()),
            "phone": ("phone", fake.phone_number), "mobile": ("phone", lambda: self._hidden(fake.phone_number())),
            "landline": ("phone", self._landline), "email": ("email", fake.email),
            "card": ("bank card", lambda: self._hidden(self._card(language))),
            "ssn": ("identity number", fake.ssn), "id": ("identity number", lambda: self._hidden(fake.ssn())),
            "iban": ("iban", self._iban), "ip": ("ip address", self._ip),
            "passport": ("passport", fake.passport_number if language == "en" else self._passport),
            "plate": ("plate", self._american_plate if language == "en" else self._plate),
            "address": ("address", fake.address), "wechat": ("account", lambda: f"wx_{fake.user_name()}{fake.year()}"),
            "user": ("credentials", fake.user_name),
            "password": ("credentials", lambda: fake.password(special_chars=False)),
        }  # fmt: skip

    def make(self, name: str) -> tuple[str, str]:
        """Return the kind and a value of it."""
        kind, maker = self._makers[name]
        return kind, maker()

    def _hidden(self, digits: str) -> str:
        if self.chance.random() >= _HIDING:
            return digits
        how = self.chance.randrange(4)
        if how == 0:
            return digits.translate({code: code + 0xFEE0 for code in map(ord, string.digits)})
        sign = " -\u200b"[how - 1]
        return sign.join(digits[at : at + 4] for at in range(0, len(digits), 4))

    def _card(self, language: str) -> str:
        if language == "en":
            return str(self.fake.credit_card_number())
        body = f"62{self.chance.randrange(10**16):016}"
        total = sum(sum(divmod(int(sign) * (2 - place % 2), 10)) for place, sign in enumerate(reversed(body)))
        return f"{body}{-total % 10}"

    def _landline(self) -> str:
        area = self.chance.choice(["010", "021", "0755", "0571", "028"])
        sign = self.chance.choice(["-", " ", ""])
        return f"{area}{sign}{self.chance.randrange(2, 9)}{self.chance.randrange(10**7):07}"

    def _iban(self) -> str:
        number = str(self.fake.iban())
        return (
            number if self.chance.random() < 0.5 else " ".join(number[at : at + 4] for at in range(0, len(number), 4))
        )

    def _ip(self) -> str:
        return str(self.fake.ipv4() if self.chance.random() < 0.7 else self.fake.ipv6())

    def _passport(self) -> str:
        return f"{self.chance.choice('EEG')}{self.chance.randrange(10**8):08}"

    def _american_plate(self) -> str:
        return (
            "".join(self.chance.choices(string.ascii_uppercase, k=3))
            + f"{self.chance.choice(' -')}{self.chance.randrange(10**4):04}"
        )

    def _plate(self) -> str:
        start = self.chance.choice("京沪粤浙苏川鲁") + self.chance.choice("ABCDE") + self.chance.choice(["", "·", " "])
        if self.chance.random() < 0.4:
            return f"{start}{self.chance.choice('DF')}{self.chance.randrange(10**5):05}"
        return start + "".join(self.chance.choices("ABCDEFGHJK", k=1)) + f"{self.chance.randrange(10**4):04}"


def sentences(language: str, templates: str, n: int, seed: int) -> Iterator[tuple[str, list[tuple[str, int, int]]]]:
    """Yield sentences with kind, start and end of each value in them."""
    values, lines = Values(language, seed), [line.strip() for line in templates.strip().splitlines()]
    for number in range(n):
        text, told, at = "", [], 0
        template = lines[number % len(lines)]
        for match in _PLACEHOLDER.finditer(template):
            text += template[at : match.start()]
            kind, value = values.make(match[1])
            told.append((kind, len(text), len(text) + len(value)))
            text += value
            at = match.end()
        yield text + template[at:], told


def measure(
    language: str, templates: str, n: int, seed: int = 7, finders: Sequence[Finder] = ()
) -> tuple[dict[str, tuple[int, int]], tuple[int, int], list[str]]:
    """Return kind -> (values, those hidden whole), (findings, those that touch a value), and what was missed.

    A value is hidden where nothing of it but spaces is left, whatever it was taken for.
    """
    counts: dict[str, list[int]] = {}
    right = n_found = 0
    missed: list[str] = []
    made = list(sentences(language, templates, n, seed))
    each = find_all([text for text, _ in made], finders=finders)
    for (text, told), found in zip(made, each, strict=True):
        hidden = {at for one in found for at in range(one.start, one.end)}
        for kind, start, end in told:
            counts.setdefault(kind, [0, 0])[0] += 1
            if all(at in hidden or not text[at].isalnum() for at in range(start, end)):
                counts[kind][1] += 1
            else:
                missed.append(f"{kind}: {text[start:end]!r} in {text!r}")
        inside = {at for _, start, end in told for at in range(start, end)}
        n_found += len(found)
        for one in found:
            if not inside.isdisjoint(range(one.start, one.end)):
                right += 1
            else:
                missed.append(f"false {one.kind}: {text[one.start : one.end]!r} in {text!r}")
    return {kind: (one, two) for kind, (one, two) in counts.items()}, (n_found, right), missed


REAL = {
    "banking77": "banking77/test.jsonl", "bank_faqs": "bank_faqs/all.jsonl", "clinc150": "clinc150/test.jsonl",
    "waimai_10k": "waimai_10k/all.jsonl", "tnews_zh": "tnews_zh/test.jsonl",
}  # fmt: skip


def real(path: Path, finders: Sequence[Finder] = ()) -> tuple[int, Counter[str], list[str], float]:
    """Return how many rows a file has, what was found in them by kind, the findings, and texts a second."""
    rows = [json.loads(line) for line in path.read_text("utf-8").splitlines()]
    texts = [str(row.get("text") or row.get("sentence") or row.get("question") or "") for row in rows][:5000]
    find_personal("warm 1 张")
    began = time.process_time()
    each = find_all(texts, finders=finders)
    took = time.process_time() - began
    found = [(text, one) for text, some in zip(texts, each, strict=True) for one in some]
    return (
        len(texts),
        Counter(one.kind for _, one in found),
        [f"{one.kind}: {text[one.start : one.end]!r} in {text!r}" for text, one in found],
        len(texts) / took,
    )


def tagged(folder: Path, finders: Sequence[Finder]) -> dict[str, dict[str, Any]]:
    """Return set -> people's names in its test rows, the share hidden whole, and of findings those that touch one."""
    from taggers.names import SETS, rows

    told: dict[str, dict[str, Any]] = {}
    for name, (part, between, means) in SETS.items():
        if not (folder / name).is_dir():
            continue
        known = {row["text"] for row in rows(folder / name / "train.jsonl", between, means)}
        some = [row for row in rows(folder / name / f"{part}.jsonl", between, means) if row["text"] not in known]
        n_names = hidden = n_found = right = 0
        for row, found in zip(some, find_all([row["text"] for row in some], ["name"], finders), strict=True):
            masked = {at for one in found for at in range(one.start, one.end)}
            people = [set(range(start, end)) for start, end, label in row["entities"] if label == "PER"]
            n_names += len(people)
            hidden += sum(all(at in masked or not row["text"][at].isalnum() for at in one) for one in people)
            n_found += len(found)
            inside = set().union(*people)
            right += sum(not inside.isdisjoint(range(one.start, one.end)) for one in found)
        told[name] = {
            "rows": len(some), "names": n_names, "recall": hidden / max(n_names, 1),
            "precision": right / max(n_found, 1),
        }  # fmt: skip
    return told


def main() -> None:
    """Print it, and write it as JSON."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--sentences", type=int, default=1000)
    parser.add_argument("--data", type=Path, help="Folder of labelled data sets, for false alarms.")
    parser.add_argument("--set", choices=["developed", "judged"], default="judged")
    parser.add_argument("--show", type=int, default=0, help="Show so many misses and false alarms.")
    parser.add_argument("--smoke", action="store_true", help="A few sentences.")
    parser.add_argument("--out", type=Path, default=Path("bench/results/mask.json"))
    parser.add_argument("--names-by", type=Path, help="A bundle that tags names: measure with it, too.")
    parser.add_argument("--label", action="append", default=[], help="A label of it that counts: PER=name.")
    options = parser.parse_args()
    told: dict[str, Any] = {"rules": report(options, ())}
    if options.names_by:
        from luban.bundle.names import NameFinder

        labels = dict(one.split("=", 1) for one in options.label) or None
        print(f"\nwith {options.names_by}")
        told["rules and model"] = report(options, [NameFinder.open(options.names_by, labels)])
    options.out.parent.mkdir(parents=True, exist_ok=True)
    options.out.write_text(json.dumps(told, indent=2) + "\n")


def report(options: argparse.Namespace, finders: Sequence[Finder]) -> dict[str, Any]:
    """Print and return all figures."""
    told: dict[str, Any] = {}
    n = 100 if options.smoke else options.sentences
    for language, templates in (DEVELOPED if options.set == "developed" else JUDGED).items():
        counts, (n_found, right), missed = measure(language, templates, n, finders=finders)
        print(f"{language}: {n} sentences ({options.set}), precision {right / n_found:.4f} of {n_found} findings")
        for kind in sorted(counts, key=KINDS.index):
            n_values, hidden = counts[kind]
            print(f"  {kind:16} recall {hidden / n_values:.4f}  of {n_values}")
        structured = [value for kind, value in counts.items() if kind not in ("name", "address")]
        recall = sum(two for _, two in structured) / sum(one for one, _ in structured)
        print(f"  structured       recall {recall:.4f}")
        told[language] = {
            "sentences": n, "precision": right / n_found, "structured": recall,
            **{kind: two / one for kind, (one, two) in counts.items()},
        }  # fmt: skip
        print("\n".join(f"    {one}" for one in missed[: options.show]))
    for name, path in REAL.items():
        if options.data and (options.data / path).is_file():
            n_rows, kinds, shown, speed = real(options.data / path, finders)
            print(f"{name}: {n_rows} rows, {dict(kinds)}, {speed:.0f} texts/s")
            told[name] = {"rows": n_rows, "found": dict(kinds), "texts_per_s": speed}
            print("\n".join(f"    {one}" for one in shown[: options.show]))
    for name, found in tagged(options.data, finders).items() if options.data else ():
        print(
            f"{name}: {found['names']} names in {found['rows']} rows, recall {found['recall']:.4f}, "
            f"precision {found['precision']:.4f}"
        )
        told[name] = found
    return told


if __name__ == "__main__":
    main()
